"""boxes: what a picture of a network shows: operations with the dimensions of what they hold.

An operation that only passes on what the one before it made, and holds no matrix of its own,
shares the box of that one: a convolution, its norm and its activation are one box.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable
from dataclasses import dataclass, field

from graphprune.core.axes import atoms
from graphprune.core.explain import Node
from graphprune.core.graph import Op, Value
from graphprune.core.groups import Dependencies


@dataclass(frozen=True)
class Cell:
    """One dimension of a value.

    Attributes:
        node: The dimension.
        size: Its length.
        groups: Ids of the groups that it holds.
        reasons: Why axes of it are locked.
    """

    node: Node
    size: int
    groups: tuple[int, ...]
    reasons: tuple[str, ...]


@dataclass(frozen=True)
class Row:
    """A weight, an input, or what an operation makes.

    Attributes:
        label: What it is called in its box.
        brief: The same where there is little room.
        value: The value.
        op: The operation that makes it; None for weights and inputs.
        cells: Its dimensions.
        is_output: Whether the network returns it.
    """

    label: str
    brief: str
    value: Value
    op: Op | None
    cells: tuple[Cell, ...]
    is_output: bool


@dataclass
class Box:
    """Operations that are drawn as one.

    Attributes:
        title: The module that they belong to, or the first one's name.
        ops: The operations; none for an input of the network.
        rows: What they hold and make.
    """

    title: str
    ops: list[Op] = field(default_factory=list)
    rows: list[Row] = field(default_factory=list)


@dataclass(frozen=True)
class Wire:
    """A value on its way from one box to another.

    Attributes:
        start: The place of the box that it comes from.
        stop: The place of the box that it goes to.
        value: The value.
        op: The operation that takes it.
    """

    start: int
    stop: int
    value: Value
    op: Op


def boxes_of(deps: Dependencies, groups: Collection[int]) -> tuple[list[Box], list[Wire]]:
    """The boxes of a network, in the order in which they run, and what runs between them.

    Args:
        deps: The analysis.
        groups: Ids of the groups that concern; all of them show the whole network.
    """
    return _Drawing(deps, groups).boxes()


class _Drawing:
    def __init__(self, deps: Dependencies, groups: Collection[int]) -> None:
        self.deps = deps
        self.whole = len(groups) == len(deps.groups)
        self.groups = set(groups)
        self.ids = {group.axis: group.id for group in deps.groups}
        self.returned = set(deps.source.outputs)
        ops = deps.source.ops + deps.source.training
        self.ops = [op for op in ops if self._concerns(op)]
        self.users: dict[Value, list[Op]] = {}
        for op in self.ops:
            for value in dict.fromkeys(op.inputs):
                if value is not None:
                    self.users.setdefault(value, []).append(op)
        self.made: list[Box] = []
        self.wires: list[Wire] = []
        self.at: dict[Value, int] = {}

    def _concerns(self, op: Op) -> bool:
        """Whether an operation meets what is shown."""
        values = [value for value in (*op.inputs, *op.outputs) if value is not None]
        if self.whole and any(value.kind == "parameter" for value in values):
            return True
        return any(self.groups & set(self._held(value)) for value in values)

    def _held(self, value: Value) -> Iterable[int]:
        dims = self.deps.dims.get(value, [])
        return (self.ids[axis] for dim in dims for axis in atoms(dim) if axis in self.ids)

    def boxes(self) -> tuple[list[Box], list[Wire]]:
        """Draw every operation."""
        for value in self.deps.source.inputs:
            if value in self.users:
                self.at[value] = len(self.made)
                self.made.append(Box(value.name, [], [self._row(value, None, "input", "input")]))
        for op in self.ops:
            fed = [v for v in dict.fromkeys(op.inputs) if v is not None and v in self.at]
            place = self._shared(op, fed)
            if place is None:
                place = len(self.made)
                self.made.append(Box(op.module or _owner(op) or op.name))
                self.wires += [Wire(self.at[value], place, value, op) for value in fed]
            self._fill(place, op)
        return self.made, self.wires

    def _shared(self, op: Op, fed: list[Value]) -> int | None:
        """The box of the operation before, where this one can share it."""
        if any(value and value.is_weight and len(value.shape) > 1 for value in op.inputs):
            return None
        if len(fed) != 1 or len(self.users[fed[0]]) != 1 or fed[0] in self.returned:
            return None
        place = self.at[fed[0]]
        box = self.made[place]
        alone = box.ops and box.ops[-1].outputs == [fed[0]]
        return place if alone else None

    def _fill(self, place: int, op: Op) -> None:
        """Draw an operation in a box."""
        box = self.made[place]
        box.ops.append(op)
        kind = op.type.rpartition(".")[2]
        own = op.module.rpartition(".")[2]
        prefix = f"{own} " if op.module not in ("", box.title) and own != kind else ""
        owner = op.module or _owner(op)
        for value in dict.fromkeys(op.inputs):
            if value is not None and value.is_weight:
                label = value.name.removeprefix(f"{owner}.") if owner else value.name
                box.rows.append(self._row(value, None, label, label))
        for number, value in enumerate(op.outputs):
            told = kind if len(op.outputs) == 1 else f"{kind} {number}"
            box.rows.append(self._row(value, op, prefix + told, told))
            self.at[value] = place

    def _row(self, value: Value, op: Op | None, label: str, brief: str) -> Row:
        cells = []
        for number, dim in enumerate(self.deps.dims[value]):
            held = list(dict.fromkeys(atoms(dim)))
            ids = tuple(self.ids[axis] for axis in held if axis in self.ids)
            reasons = tuple(dict.fromkeys(axis.reason for axis in held if axis.reason))
            cells.append(Cell((value.name, number), value.shape[number], ids, reasons))
        return Row(label, brief, value, op, tuple(cells), value in self.returned)


def _owner(op: Op) -> str:
    """The module that an operation's weights are named after, in files that tell no modules."""
    weights = [value for value in op.inputs if value is not None and value.is_weight]
    owners = {value.name.rpartition(".")[0] for value in weights}
    return owners.pop() if len(owners) == 1 else ""

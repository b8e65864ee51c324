"""Softmax scales that are derived from head_dim, folded into the query weights.

1. `scaled_dot_product_attention` without a scale divides by the square root of the *new* head_dim.
   Multiplying the queries by sqrt(new / old) restores the temperature and keeps the caller's code.
2. So it is with code that derives the number itself (`scores / math.sqrt(q.shape[-1])`).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch

from graphprune.core.axes import length
from graphprune.core.cuts import Cuts
from graphprune.core.effect import SHARE
from graphprune.core.graph import Op, Value
from graphprune.core.indices import kept_length
from graphprune.frontends.torch.captured import CapturedModule
from graphprune.frontends.torch.execute import evaluate
from graphprune.frontends.torch.fold import Fold
from graphprune.frontends.torch.shares import Readers, carried, shape_of
from graphprune.rules.facts import copies, divides, joins, moves, multiplies, stacks, sums
from graphprune.rules.readings import Reading, reading
from graphprune.rules.registry import stated
from graphprune.rules.scalings import affine, is_batch_norm


def find_folds(captured: CapturedModule, cuts: Cuts) -> tuple[list[Fold], Cuts]:
    """Where a scale can be folded.

    Returns:
        The folds, and the cuts without the scales that they make unnecessary.
    """
    counts = {axis: len(kept) for axis, kept in cuts.keep.items()}
    folds: list[Fold] = []
    attrs = dict(cuts.attrs)
    tracer = _Tracer(captured, cuts)
    graph = captured.graph
    readers = Readers(graph.ops, graph.outputs, cuts)
    training = set(graph.training)
    for op, changed in cuts.attrs.items():
        if SHARE in changed and op not in training:  # where the same code runs on the same weights
            found_share = readers.folds(op, changed[SHARE])
            if found_share is None:
                rows = tracer.rows(op.inputs[0], [], op)
                found_share = None if rows is None else _folds(rows, changed[SHARE])
            if found_share is not None:
                folds += found_share
                attrs[op] = {name: value for name, value in changed.items() if name != SHARE}
            continue
        pin = cuts.deps.effects[op].pins.get("scale")
        if pin is None or "scale" not in changed:
            continue
        query, *others = op.inputs[:3]
        found = tracer.rows(query, others, op)
        if found is None:
            continue
        factor = (kept_length(pin[1], counts) / length(pin[1])) ** 0.5
        folds.extend(_folds(found, factor))
        attrs[op] = {name: value for name, value in changed.items() if name != "scale"}
    return folds, Cuts(cuts.deps, cuts.keep, cuts.weights, attrs)


def fold_numbers(
    captured: CapturedModule, cuts: Cuts, numbers: Mapping[Op, tuple[str, float]]
) -> tuple[list[Fold], Cuts]:
    """Where numbers that the code derives from widths can be made up for in the queries.

    Args:
        captured: The captured model.
        cuts: The narrowed graph.
        numbers: Attributes of operations, and the number that the narrowed code gives them.

    Returns:
        The folds, and the cuts with those numbers.
    """
    folds: list[Fold] = []
    attrs = dict(cuts.attrs)
    tracer = _Tracer(captured, cuts)
    for op, (attr, given) in numbers.items():
        found = tracer.scaled_rows(op, attr)
        number = attrs.get(op, {}).get(attr, op.attrs[attr])
        if found is None or not given or not number:
            continue
        factor = given / number if divides(op) else number / given
        folds.extend(_folds(found, factor))
        attrs[op] = {**attrs.get(op, {}), attr: given}
    return folds, Cuts(cuts.deps, cuts.keep, cuts.weights, attrs)


def _folds(found: tuple[Op, tuple[int, ...]], factor: float) -> list[Fold]:
    linear, rows = found
    made = _made(linear)
    return [Fold(value, rows, factor) for value in made[0]] if made is not None else []


def _made(op: Op) -> tuple[list[Value], int] | None:
    """What the results of an operation grow with, and the dimension of them that its rows make.

    Weight and bias of a linear layer whose outputs lie along the first dimension of its weight;
    gain and offset of a batch norm. None for any other operation.
    """
    if is_batch_norm(op):
        placed = affine(op)
        if placed is None:
            return None
        held = [op.inputs[at] for at in placed[:2] if at is not None]
        return [value for value in held if value is not None], placed[2]
    read = reading(op)
    if not isinstance(read, Reading) or read.product or read.inner != 1 or not read.ends:
        return None
    dim = read.output % len(op.outputs[0].shape)
    return [read.weight, *([] if read.bias is None else [read.bias])], dim


class _Tracer:
    """Follows queries back to the rows of the linear layer that makes them."""

    def __init__(self, captured: CapturedModule, cuts: Cuts) -> None:
        self._cuts = cuts
        self._makers = {value: op for op in captured.graph.ops for value in op.outputs}
        self._users: dict[Value, list[Op]] = {}
        for op in captured.graph.ops:
            for value in op.inputs:
                if value is not None:
                    self._users.setdefault(value, []).append(op)
        self._traced: dict[Value, tuple[Op, list[torch.Tensor]] | None] = {}

    def scaled_rows(self, op: Op, attr: str) -> tuple[Op, tuple[int, ...]] | None:
        """The linear layer, and its rows, behind what an operation scales by a number."""
        if attr == "scale":
            query, *others = op.inputs[:3]
            return self.rows(query, others, op)
        if not (divides(op) or multiplies(op)) or op.inputs[0] is None:
            return None
        scaled = op.inputs[0]
        product = self._makers.get(scaled)
        read = reading(product) if product is not None else None
        if product is None or not isinstance(read, Reading) or not read.product:
            return self.rows(scaled, [], op)
        if self._users[scaled] != [op]:
            return None
        first, second = product.inputs[:2]
        return self.rows(first, [second], product) or self.rows(second, [first], product)

    def rows(
        self, query: Value | None, others: Sequence[Value | None], reader: Op
    ) -> tuple[Op, tuple[int, ...]] | None:
        """The linear layer behind a value, and its rows that make it and nothing else.

        Args:
            query: The value.
            others: What must not be made by the same rows.
            reader: The only operation that may read the value.
        """
        if query is None:
            return None
        found = self._trace(query)
        made = _made(found[0]) if found is not None else None
        if found is None or made is None or not all(w.is_weight for w in made[0]):
            return None
        linear, maps = found
        rows = _distinct(maps)
        path = self._path(query)
        on_path = {self._makers[value] for value in path} | {reader}
        for value, held in path.items():
            if held <= rows and any(user not in on_path for user in self._users.get(value, [])):
                return None  # the queries serve something else as well
        for other in others:
            traced = self._trace(other) if other is not None else None
            if traced is not None and traced[0] is linear and rows & _distinct(traced[1]):
                return None
        if any(len(self._users.get(w, [])) > 1 for w in made[0]):
            return None
        return linear, tuple(sorted(rows))

    def _path(self, value: Value) -> dict[Value, set[int]]:
        """The values between a linear layer and what was traced back to it, with their rows."""
        path: dict[Value, set[int]] = {}
        todo = [value]
        while todo:
            value = todo.pop()
            found = self._traced.get(value)
            if found is not None and value not in path:
                path[value] = _distinct(found[1])
                if self._makers[value] is not found[0]:
                    todo.extend(v for v in self._makers[value].inputs if v is not None)
        return path

    def _trace(self, value: Value) -> tuple[Op, list[torch.Tensor]] | None:
        if value not in self._traced:
            self._traced[value] = self._follow(value)
        return self._traced[value]

    def _follow(self, value: Value) -> tuple[Op, list[torch.Tensor]] | None:
        op = self._makers.get(value)
        if op is None:
            return None
        made = _made(op)
        if made is not None:
            return op, [self._rows(op, made[1])]
        if moves(op) or copies(op):
            return self._moved(op, value)
        if sums(op) or joins(op) or stacks(op):
            return self._summed(op, value)
        return (self._scaled if multiplies(op) or divides(op) else self._rectified)(op, value)

    def _rectified(self, op: Op, value: Value) -> tuple[Op, list[torch.Tensor]] | None:
        """Behind an activation that passes positive factors on."""
        (source, *others) = op.inputs or [None]
        alone = source is not None and not any(others) and len(op.outputs) == 1
        if source is None or not alone or not stated(op).elementwise or source.shape != value.shape:
            return None
        found = self._trace(source)
        if found is None:
            return None
        everywhere = torch.ones(shape_of(source, self._cuts), dtype=torch.bool)
        passed = carried(op, {source: everywhere}, self._cuts)
        return found if passed is not None and bool(passed[0].all()) else None

    def _rows(self, op: Op, dim: int) -> torch.Tensor:
        shape = shape_of(op.outputs[0], self._cuts)
        view = [1] * len(shape)
        view[dim] = shape[dim]
        return torch.arange(shape[dim]).view(view).expand(shape)

    def _moved(self, op: Op, value: Value) -> tuple[Op, list[torch.Tensor]] | None:
        source = op.inputs[0]
        found = self._trace(source) if source is not None else None
        if found is None:
            return None
        at = op.outputs.index(value)
        if copies(op) or stated(op).elementwise:
            return found
        changed = self._cuts.attrs.get(op, {})
        maps = [m.contiguous() if op.type == "aten.view" else m for m in found[1]]
        return found[0], [evaluate(op, [m], changed)[at] for m in maps]

    def _summed(self, op: Op, value: Value) -> tuple[Op, list[torch.Tensor]] | None:
        traced = [self._trace(v) for v in op.inputs if v is not None]
        known = [t for t in traced if t is not None]
        if len(known) < len(traced) or len({id(t[0]) for t in known}) != 1 or not known:
            return None
        if joins(op) or stacks(op):
            depth = max(len(maps) for _, maps in known)
            layers = [[maps[min(i, len(maps) - 1)] for _, maps in known] for i in range(depth)]
            return known[0][0], [evaluate(op, layer, {})[0] for layer in layers]
        shape = shape_of(value, self._cuts)
        return known[0][0], [m.expand(shape) for _, maps in known for m in maps]

    def _scaled(self, op: Op, value: Value) -> tuple[Op, list[torch.Tensor]] | None:
        traced = [self._trace(v) if v is not None else None for v in op.inputs]
        known = [t for t in traced if t is not None]
        if len(known) != 1 or (divides(op) and traced[0] is None):
            return None
        shape = shape_of(value, self._cuts)
        return known[0][0], [m.expand(shape) for m in known[0][1]]


def _distinct(maps: Sequence[torch.Tensor]) -> set[int]:
    """The row numbers in index tensors; broadcast dimensions are looked at once."""
    seen = torch.zeros(1 + max(int(m.max()) for m in maps), dtype=torch.bool)
    for m in maps:
        for dim in range(m.dim()):
            if m.stride(dim) == 0:
                m = m.narrow(dim, 0, 1)
        seen[m.reshape(-1)] = True
    return set(seen.nonzero().flatten().tolist())

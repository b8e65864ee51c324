"""follow: what of a module's own code depends on its inputs' sizes, their type, and the mode.

A captured graph holds numbers. Which of them the code took from the batch size, the size of an
image, the type or the mode, one capture does not tell: the module is captured alone, again and
again, with other sizes, another type and in training mode, and the operations are held against
those of the graph. A number that changes is to follow, if a simple law tells how (a power of the
size, or a multiple of it); where none does, or where the code takes another path, generated code
must refuse the size, the type or the mode.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch

from graphprune.core.cuts import Cuts
from graphprune.core.graph import Op, Value
from graphprune.frontends.torch.alone import Alone, Step, is_layout, read_by, same_steps
from graphprune.frontends.torch.captured import CapturedModule
from graphprune.frontends.torch.findings import Call
from graphprune.frontends.torch.laws import (
    Lengths,
    Size,
    at_sizes,
    flat,
    joined,
    law_of,
    near,
    sizes_of,
)
from graphprune.rules.facts import cuts_off

_TYPES = (torch.float64, torch.float32, torch.float16, torch.bfloat16)
_DROPOUT = torch.ops.aten.dropout.default


@dataclass
class Follows:
    """What generated code takes from its inputs again, and what it refuses.

    Attributes:
        lengths: For attributes of operations, the sizes that they follow.
        modes: Attributes that follow the mode, and what they are in training mode.
        dropouts: Operations whose result is dropped from in training mode only, and how much.
        dtypes: Attributes that follow the type of an input.
        without_gradients: Operations that the code runs without gradients.
        fixed: Inputs, dimensions and the sizes that they must have.
        types: The types that the first input of floating point may have; None for any.
        evaluated: Whether training mode is refused.
    """

    lengths: dict[Op, dict[str, Lengths]] = field(default_factory=dict)
    modes: dict[Op, dict[str, Any]] = field(default_factory=dict)
    dropouts: dict[Op, float] = field(default_factory=dict)
    dtypes: dict[Op, dict[str, Value]] = field(default_factory=dict)
    without_gradients: set[Op] = field(default_factory=set)
    fixed: list[tuple[Value, int, int]] = field(default_factory=list)
    types: tuple[torch.dtype, ...] | None = None
    evaluated: bool = False


def follow(
    captured: CapturedModule,
    path: str,
    call: Call,
    ops: Sequence[Op],
    needed: Collection[Op],
    aside: set[str],
    cuts: Cuts,
    rigid: bool = False,
) -> Follows:
    """Find out what a module's own code follows.

    Args:
        captured: The captured model.
        path: The module's path.
        call: The call of it, in terms of the graph's values.
        ops: The operations of its own code, in order.
        needed: Those of them that its results depend on.
        aside: Paths of modules inside whose code is not its own: those that it calls as such, and
            those that it does without.
        cuts: The narrowed graph.
        rigid: Whether to follow nothing: sizes, type and mode are those of the capture.
    """
    found = Follows()
    if not needed:
        return found
    alone = Alone(captured, path, call, aside, cuts)
    sizes = list(sizes_of(call, cuts))
    base = None if rigid else alone.traced({})
    outside = not set(needed) <= set(ops)
    ops = [op for op in ops if not is_layout(op.source.target)]
    if base is None or outside or not same_steps(ops, base):
        found.fixed = [(size.value, size.dim, size.axis.size * size.rest) for size in sizes]
        found.types, found.evaluated = alone.types(), True
        return found
    search = _Search(ops, needed, base, alone, cuts, found)
    for size in sizes:
        search.vary(size)
    search.together()
    search.types()
    search.modes()
    return found


class _Search:
    """Captures that are held against the graph's operations."""

    def __init__(
        self,
        ops: Sequence[Op],
        needed: Collection[Op],
        base: list[Step],
        alone: Alone,
        cuts: Cuts,
        found: Follows,
    ) -> None:
        self._ops = ops
        self._needed = set(needed)
        self._base = base
        self._alone = alone
        self._cuts = cuts
        self._found = found
        self._followed: list[Size] = []
        found.without_gradients = {
            op for op, step in zip(ops, base, strict=True) if not step.grad and op in self._needed
        }

    def vary(self, size: Size) -> None:
        """Find the laws by which numbers follow one size, or fix it."""
        tried: list[tuple[int, list[Step]]] = []
        for new in size.others():
            steps = self._alone.traced({size.axis: new})
            if steps is not None and not same_steps(self._ops, steps):
                return self._fix(size)  # the code takes another path
            if steps is not None:
                tried.append((new, steps))
        if not tried:
            return self._fix(size)
        laws: dict[tuple[Op, str], Lengths] = {}
        for at, op in self._places():
            for attr, number in self._base[at].given.items():
                others = [(new, steps[at].given[attr]) for new, steps in tried]
                if all(other == number for _, other in others):
                    continue
                law = law_of(size, number, others)
                known = self._found.lengths.get(op, {}).get(attr)
                narrowed = self._cuts.attrs.get(op, {}).get(attr, number)
                moved = cuts_off(op) and not near(number, narrowed)  # rows beside it went
                if law is None or moved or not _holds(number, narrowed, law, known or []):
                    return self._fix(size)
                laws[op, attr] = joined(known, law)
        for (op, attr), law in laws.items():
            self._found.lengths.setdefault(op, {})[attr] = law
        self._followed.append(size)
        return None

    def _fix(self, size: Size) -> None:
        self._found.fixed.append((size.value, size.dim, size.axis.size * size.rest))

    def together(self) -> None:
        """See that numbers which follow several sizes do so when all change at once."""
        if len(self._followed) < 2:
            return
        both = [laws for attrs in self._found.lengths.values() for laws in attrs.values()]
        if all(len({one.value for one in flat(laws)} | {one.dim for one in flat(laws)}) < 3
               and len(flat(laws)) < 2 for laws in both):  # fmt: skip
            return
        new = {size.axis: size.others()[0] for size in self._followed}
        steps = self._alone.traced(new)
        held = {(size.value, size.dim): new[size.axis] for size in self._followed}
        if steps is not None and same_steps(self._ops, steps):
            wrong = any(
                not near(at_sizes(self._base[at].given[attr], laws, held), steps[at].given[attr])
                for at, op in self._places()
                for attr, laws in self._found.lengths.get(op, {}).items()
            )
            if not wrong:
                return
        for size in self._followed[1:]:
            self._fix(size)

    def types(self) -> None:
        """Find the types that the code follows."""
        first = self._alone.first()
        if first is None:
            return
        captured = getattr(torch, first.dtype)
        allowed = [captured]
        for dtype in (t for t in _TYPES if t != captured):
            steps = self._alone.traced({}, dtype=dtype)
            if steps is None or not same_steps(self._ops, steps):
                continue
            changed = [
                (op, attr, given, steps[at].given[attr])
                for at, op in self._places()
                for attr, given in self._base[at].given.items()
                if given != steps[at].given[attr]
            ]
            if all(given == captured and new == dtype for _, _, given, new in changed):
                allowed.append(dtype)
                for op, attr, _, _ in changed:
                    self._found.dtypes.setdefault(op, {})[attr] = first
        if len(allowed) < len(_TYPES) and not first.is_weight:
            self._found.types = tuple(allowed)

    def modes(self) -> None:
        """Find what follows the mode."""
        steps = self._without_dropouts(self._alone.traced({}, training=True) or [])
        if not same_steps(self._ops, steps):
            self._found.evaluated = True
            return
        for at, op in self._places():
            for attr, given in self._base[at].given.items():
                new = steps[at].given[attr]
                if type(given) is type(new) and isinstance(given, bool | float) and given != new:
                    self._found.modes.setdefault(op, {})[attr] = new
                elif given != new:
                    self._found.evaluated = True

    def _without_dropouts(self, steps: Sequence[Step]) -> list[Step]:
        """The steps but for dropouts that only training mode has, each noted at what it reads."""
        out: list[Step] = []
        before: Step | None = None
        for step in steps:
            at = len(out)
            wanted = self._ops[at].source.target if at < len(self._ops) else None
            if step.target == _DROPOUT and step.target != wanted and before is not None:
                if read_by(step.node) is not before.node or not out:
                    return []
                self._found.dropouts[self._ops[at - 1]] = step.given["p"]
            else:
                out.append(step)
            before = step
        return out

    def _places(self) -> list[tuple[int, Op]]:
        return [(at, op) for at, op in enumerate(self._ops) if op in self._needed]


def _holds(number: Any, narrowed: Any, law: Lengths, known: Lengths) -> bool:
    """Whether a law holds of a narrowed number too, and beside the laws of other sizes.

    What grows by a multiple of a size must be the captured number still, and follow nothing else.
    """
    if isinstance(number, list):
        return len(narrowed) == len(number) and all(
            _holds(n, narrowed[i], flat(law[i : i + 1]), flat(known[i : i + 1]))
            for i, n in enumerate(number)
        )
    steps = [one.step is not None for one in (*flat(law), *flat(known))]
    return not any(steps) or (all(steps) and near(number, narrowed))

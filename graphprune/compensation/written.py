"""written: the weights of a graph that it computes from stored ones, to which any can be written.

1. Integers, with their scale (`grid`).
2. What `forms` names: directions and lengths; numbers that are moved, of another type, or scaled.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from math import prod

import torch

from graphprune.compensation.forms import Directed, Factored, Moved, Scaled, Typed, Written
from graphprune.compensation.grid import Grid, grid
from graphprune.core.effect import Encoding
from graphprune.core.graph import Graph, Op, Value
from graphprune.core.groups import Dependencies
from graphprune.rules.facts import copies, divides, is_random, moves, multiplies
from graphprune.rules.scalings import directed


@dataclass
class Known:
    """The weights that a graph computes from stored ones.

    Attributes:
        written: How each of them is written.
        moved: Integers that are moved from where they are stored.
        same: Results that are another's once more: of the same operation, of the same weights.
        uses: How many operands of operations each value is, together with those that are the same.
    """

    written: dict[Value, Written] = field(default_factory=dict)
    moved: dict[Value, Moved] = field(default_factory=dict)
    same: dict[Value, Value] = field(default_factory=dict)
    uses: Counter[Value] = field(default_factory=Counter)


def written(deps: Dependencies) -> Known:
    """The values of a graph that are computed from stored weights, to which any can be written."""
    return _Finder(deps).found


class _Finder:
    """Goes through the operations of a graph in their order."""

    def __init__(self, deps: Dependencies) -> None:
        self._deps = deps
        self._makers = {value: op for op in deps.source.ops for value in op.outputs}
        same = _same(deps.source)
        self._uses = Counter(
            same.get(v, v)
            for op in deps.source.ops
            for v in op.inputs
            if v is not None and same.keys().isdisjoint(op.outputs)
        )
        self.found = Known(same=same, uses=self._uses)
        for op in deps.source.ops:
            if not same.keys().isdisjoint(op.outputs):
                continue
            found: Written | None = grid(op, deps, self._uses, self._makers, self.found.moved)
            found = found or self._directed(op)
            if found is None and len(op.outputs) == 1:
                found = self._moved(op) or self._typed(op) or self._scaled(op)
            if found is not None:
                self.found.written[op.outputs[0]] = found

    def _directed(self, op: Op) -> Directed | None:
        """What an operation reads, if it gives directions their lengths."""
        dim = directed(op)
        if dim is None or len(op.inputs) != 2:
            return None
        v, g = op.inputs
        if v is None or g is None or not (self._own(v) and self._own(g)):
            return None
        return Directed(v, g, None if dim < 0 else dim)

    def _own(self, value: Value, integers: bool = False) -> bool:
        """Whether a value is a stored weight that only one operation reads, of floats or not."""
        stored = value.kind == "parameter" and isinstance(value.tensor, torch.Tensor)
        if not stored or self._uses[value] != 1 or value.tensor.is_complex():
            return False
        return bool(value.tensor.is_floating_point()) is not integers

    def _found(self, value: Value | None) -> bool:
        """Whether any numbers can be written to a value: it is stored, or computed from what is."""
        if value is None or self._uses[value] != 1 or value in self._deps.source.outputs:
            return False
        return value in self.found.written or self._own(value)

    def _moved(self, op: Op) -> Moved | None:
        """The result of an operation that moves the numbers of a weight, each to one place.

        Integers are noted; what they stand for is known where they are read.
        """
        base = op.inputs[0] if op.inputs and moves(op) else None
        (result,) = op.outputs
        if base is None or prod(base.shape) != prod(result.shape) or base.dtype != result.dtype:
            return None
        if not all(v is None or isinstance(v.tensor, torch.Tensor) for v in op.inputs[1:]):
            return None
        evaluate, outputs = self._deps.source.engine.evaluate, self._deps.source.outputs
        before = self.found.moved.get(base)
        if self._own(base, integers=True) or (before is not None and self._uses[base] == 1):
            if base not in outputs:
                self.found.moved[result] = Moved(base, before, op, evaluate)
            return None
        found = self._found(base)
        return Moved(base, self.found.written.get(base), op, evaluate) if found else None

    def _typed(self, op: Op) -> Written | None:
        """The result of an operation that gives a weight another type."""
        base = op.inputs[0] if op.inputs and copies(op) else None
        kind = getattr(torch, op.outputs[0].dtype, None)
        if base is None or not isinstance(kind, torch.dtype) or not kind.is_floating_point:
            return None
        if base not in self._deps.source.outputs and self._own(base, integers=True):
            return Grid(base, Encoding(), base.dtype)
        found = self._found(base)
        return Typed(base, self.found.written.get(base), kind) if found else None

    def _scaled(self, op: Op) -> Written | None:
        """The result of an operation that multiplies a weight by stored factors."""
        kind = getattr(torch, op.outputs[0].dtype, None)
        if not isinstance(kind, torch.dtype):
            return None
        for base, factor in _pairs(op):
            if base.shape != op.outputs[0].shape or not self._found(base):
                continue
            if not factor.is_weight or not isinstance(factor.tensor, torch.Tensor):
                continue
            if not factor.tensor.is_floating_point() or bool((factor.tensor == 0).any()):
                continue  # what is zero cannot become anything else
            held = self.found.written.get(base)
            scaled = held.scaled(factor) if isinstance(held, Grid) else None
            return scaled or Scaled(base, held, kind, factor)
        return self._multiplied(op, kind) if multiplies(op) or divides(op) else None

    def _multiplied(self, op: Op, kind: torch.dtype) -> Factored | None:
        """The result of an operation that multiplies a weight by what the code knows, or moves."""
        (result,) = op.outputs
        may = op.inputs[:1] if divides(op) else op.inputs
        for base in [v for v in may if v is not None and v.shape == result.shape]:
            held = self.found.written.get(base)
            others = [None if v is base else self._fixed(v) for v in op.inputs]
            known = all(x is not None or v is base for x, v in zip(others, op.inputs, strict=True))
            if not self._found(base) or not known or isinstance(held, Grid):
                continue
            if held is not None and held.steps() is not None:
                continue
            ones = [torch.ones(base.shape) if x is None else x for x in others]
            factor = self._result(op, ones)
            if factor.shape == base.shape and bool((factor.isfinite() & (factor != 0)).all()):
                return Factored(base, held, kind, result, factor)
        return None

    def _result(self, op: Op, operands: Sequence[torch.Tensor | None]) -> torch.Tensor:
        """What an operation gives of other operands."""
        found: list[torch.Tensor] = self._deps.source.engine.evaluate(
            op, operands, {}, torch.float32
        )
        return found[0]

    def _fixed(self, value: Value | None) -> torch.Tensor | None:
        """The numbers of a value that no step changes; None of any other."""
        if value is None:
            return None
        held = self.found.written.get(value)
        if held is not None:
            return held.numbers() if self._uses[value] == 1 else None
        stored = value.is_weight and isinstance(value.tensor, torch.Tensor)
        own = value.kind != "parameter" or self._uses[value] == 1
        return value.tensor.detach() if stored and own else None


def _pairs(op: Op) -> Iterator[tuple[Value, Value]]:
    """The two operands of a product, either first."""
    if multiplies(op) and len(op.inputs) == 2:
        one, other = op.inputs
        if one is not None and other is not None:
            yield one, other
            yield other, one


def _same(graph: Graph) -> dict[Value, Value]:
    """Results of operations on weights alone that another operation has given before."""
    out: dict[Value, Value] = {}
    seen: dict[tuple[object, ...], Op] = {}
    derived = graph.derived()
    for op in graph.ops:
        if not op.outputs or op.outputs[0] not in derived or is_random(op):
            continue
        read = tuple(None if v is None else _known_by(out.get(v, v)) for v in op.inputs)
        first = seen.setdefault((op.type, read, repr(sorted(op.attrs.items()))), op)
        if first is not op and not any(v in graph.outputs for v in op.outputs):
            out.update(zip(op.outputs, first.outputs, strict=True))
    return out


def _known_by(value: Value) -> object:
    """What tells a value from others: numbers that nobody trains are equal where they are."""
    x = value.tensor
    if value.kind not in ("buffer", "constant") or not isinstance(x, torch.Tensor) or x.dim() > 1:
        return value
    return value.dtype, value.shape, tuple(x.flatten().tolist())

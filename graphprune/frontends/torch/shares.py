"""Means over fewer, made to divide by as many as before: a factor in weights of the caller's code.

`x.mean(1)` divides by the new width. Multiplying by the share of the indices that stay puts that
right, and a weight that reads the mean, or one that makes what is averaged, can hold the factor.

What stands between a mean and its readers must pass the factor on. That is tried rather than
known: an operation is run on numbers that hold the factor in some places and on the same numbers
without it, and the results tell where it went.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch

from graphprune.core.cuts import Cuts
from graphprune.core.graph import Op, Value
from graphprune.engine.tensors import cut_tensor
from graphprune.frontends.torch.execute import evaluate
from graphprune.frontends.torch.fold import Fold
from graphprune.rules.readings import Reading, reading

_FACTOR = 0.75  # exact in binary, and not what a function passes on by chance
_SIGNS = (1, -1, 1, -1)  # each number is drawn with both: a rectifier loses one of them
_NEAR = 1e-9  # relative, in double precision


class Readers:
    """Follows means forward to the weights that read them.

    Args:
        ops: The operations, in execution order.
        outputs: What the model returns.
        cuts: The narrowed graph.
    """

    def __init__(self, ops: Sequence[Op], outputs: Sequence[Value], cuts: Cuts) -> None:
        self._ops = ops
        self._outputs = set(outputs)
        self._cuts = cuts
        self._reads: dict[Value, int] = {}
        for op in ops:
            for value in op.inputs:
                if value is not None:
                    self._reads[value] = self._reads.get(value, 0) + 1

    def folds(self, mean: Op, share: float) -> list[Fold] | None:
        """Columns of weights that hold the factor for all that is made of a mean.

        Args:
            mean: The operation.
            share: What its result is multiplied by.

        Returns:
            None where something reads it that cannot hold a factor.
        """
        held: dict[Value, torch.Tensor] = {}
        for value in mean.outputs:
            held[value] = torch.ones(shape_of(value, self._cuts), dtype=torch.bool)
        out: list[Fold] = []
        for op in self._ops[self._ops.index(mean) + 1 :]:
            if not any(value in held for value in op.inputs):
                continue
            fold = self._read(op, held, share)
            if fold is not None:
                out.append(fold)
                continue
            passed = carried(op, held, self._cuts)
            if passed is None or any(
                schema_writes(op) and not torch.equal(held[v], passed[0])
                for v in op.inputs[:1]
                if v is not None and v in held
            ):
                return None
            held.update(
                (value, where)
                for value, where in zip(op.outputs, passed, strict=True)
                if bool(where.any())
            )
        return None if self._outputs & held.keys() else out

    def _read(self, op: Op, held: dict[Value, torch.Tensor], share: float) -> Fold | None:
        """The columns of a linear operation's weight that meet what holds the factor."""
        read = reading(op)
        if not isinstance(read, Reading) or read.source not in held:
            return None
        weight = read.weight
        stored = weight.kind in ("parameter", "buffer") and self._reads[weight] == 1
        if not stored or (read.bias is not None and read.bias in held):
            return None
        where = held[read.source]
        rows = where.movedim(read.channel, 0).reshape(where.shape[read.channel], -1)
        columns = rows.any(1)
        if not torch.equal(columns, rows.all(1)):
            return None
        if read.groups > 1:
            if not bool(columns.all()):
                return None
            columns = columns[: columns.numel() // read.groups]
        found = tuple(columns.nonzero().flatten().tolist())
        return Fold(weight, found, share, read.inner)


def carried(op: Op, held: dict[Value, torch.Tensor], cuts: Cuts) -> list[torch.Tensor] | None:
    """Where a factor in the operands of an operation is found in its results.

    Args:
        op: The operation.
        held: For each value that holds the factor, where it does.
        cuts: The narrowed graph.

    Returns:
        A mask for each result; None where the results hold neither the factor nor what they held
        without it.
    """
    generator = torch.Generator().manual_seed(0)
    changed = cuts.attrs.get(op, {})
    seen: list[tuple[torch.Tensor, torch.Tensor]] = []
    for sign in _SIGNS:
        if sign > 0:
            drawn = [_numbers(value, cuts, generator) for value in op.inputs]
        plain = [
            x if v is None or x is None or v.is_weight else x * sign
            for x, v in zip(drawn, op.inputs, strict=True)
        ]
        if any(x is None and v is not None for x, v in zip(plain, op.inputs, strict=True)):
            return None
        scaled = [
            x if v is None or x is None or v not in held else torch.where(held[v], x * _FACTOR, x)
            for x, v in zip(plain, op.inputs, strict=True)
        ]
        try:
            without, with_ = _results(op, plain, changed), _results(op, scaled, changed)
        except RuntimeError:
            return None
        for number, (a, b) in enumerate(zip(without, with_, strict=True)):
            same, times = _close(b, a), _close(b, a * _FACTOR)
            if not bool((same | times).all()):
                return None
            if len(seen) <= number:
                seen.append((torch.zeros_like(same), torch.zeros_like(same)))
            kept, passed = seen[number]
            seen[number] = kept | (same & ~times), passed | (times & ~same)
    if any(bool((kept & passed).any()) for kept, passed in seen):
        return None
    return [passed for _, passed in seen]


def shape_of(value: Value, cuts: Cuts) -> list[int]:
    """The shape of a value of the narrowed graph."""
    kept = cuts.kept(value)
    return [s if k is None else len(k) for s, k in zip(value.shape, kept, strict=True)]


def schema_writes(op: Op) -> bool:
    """Whether an operation writes to its first operand."""
    schema = getattr(op.source.target, "_schema", None)
    return bool(schema is not None and schema.is_mutable)


def _results(
    op: Op, operands: Sequence[torch.Tensor | None], changed: Mapping[str, Any]
) -> list[torch.Tensor]:
    """What one operation gives by itself; it may write into copies of its operands."""
    copies = [None if x is None else x.clone() for x in operands]
    found: list[torch.Tensor] = evaluate(op, copies, changed, torch.float64)
    return found


def _numbers(value: Value | None, cuts: Cuts, generator: torch.Generator) -> torch.Tensor | None:
    """Numbers for an operand: the stored ones, or drawn; None where they may not be any."""
    if value is None:
        return None
    if value.is_weight:
        tensor = cut_tensor(value.tensor.detach(), cuts.weights.get(value, ()))
        return tensor.double() if tensor.is_floating_point() else tensor
    if not getattr(torch, value.dtype).is_floating_point:
        return None
    return torch.randn(shape_of(value, cuts), generator=generator, dtype=torch.float64)


def _close(found: torch.Tensor, wanted: torch.Tensor) -> torch.Tensor:
    return torch.isclose(found, wanted, rtol=_NEAR, atol=_NEAR * _NEAR)

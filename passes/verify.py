"""verify: removal must equal masking.

The narrowed graph and the original one, every slice that the removed indices own set to zero,
are run side by side, operation by operation, in float64. The weights are perturbed first: a
branch that starts at zero would hide a fault. Operations that mix a removed axis
(normalisation, softmax) compute other statistics without it; there the survivors' values are
taken over and the comparison goes on behind them, as it does behind random numbers.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import torch

from graphprune.core.cuts import Cuts
from graphprune.core.errors import VerifyError
from graphprune.core.graph import Graph, Op, Value
from graphprune.core.proof import Verification
from graphprune.engine.perturbed import perturbed
from graphprune.engine.tensors import as_dtype, cut_tensor, difference
from graphprune.frontends.torch.execute import evaluate, tags
from graphprune.pipeline import Outcome, Pass, Work
from graphprune.rules.facts import is_random

TOLERANCE = 1e-9
_LIMIT = 1e8  # larger numbers are scaled down where the type is coarse


@dataclass(frozen=True)
class Engine:
    """What runs the operations of a graph.

    Attributes:
        evaluate: Runs one operation: `(op, operands, changed attributes, dtype) -> results`.
        dtype: Floating-point type to compute in.
        tolerance: Largest relative difference that rounding may cause.
        coarse: Whether the type is so coarse that rounding must not add up from operation to
            operation: the survivors' values are then taken over after each, and large ones
            (without trained normalisations, numbers grow) are scaled down in both runs.
    """

    evaluate: Callable[..., list[torch.Tensor]] = evaluate
    dtype: torch.dtype = torch.float64
    tolerance: float = TOLERANCE
    coarse: bool = False


TORCH = Engine()


def verify(
    cuts: Cuts, inputs: Sequence[torch.Tensor], seed: int = 0, engine: Engine | None = None
) -> Verification:
    """Check that removal equals masking.

    Args:
        cuts: The narrowed graph.
        inputs: Example inputs, in the order of the graph's.
        seed: For the perturbation of the weights.
        engine: What runs the operations; PyTorch in float64 where not given.

    Raises:
        VerifyError: The two disagree; names the first operation and the difference there.
    """
    engine = engine or TORCH
    graph = cuts.deps.source
    outcome = Verification()
    weights = perturbed(graph, seed, engine.dtype)
    points = _zero_points(cuts)
    given = {v: as_dtype(x, engine.dtype) for v, x in zip(graph.inputs, inputs, strict=True)}

    def zeroed(value: Value) -> torch.Tensor:
        if value in given:
            return given[value]
        point, dim = points.get(value, (None, 0))
        zero = None if point is None else along(weights(point), dim, len(value.shape))
        return _zeroed(weights(value), cuts, value, zero)

    masked = _Run(graph, engine, zeroed)
    small = _Run(
        graph,
        engine,
        lambda v: given[v] if v in given else cut_tensor(weights(v), cuts.weights.get(v, ())),
    )
    for op in graph.ops:
        try:
            reference = masked.step(op, {})
        except RuntimeError as error:
            raise VerifyError(
                f"the original model does not run by single operations: {error}; pass example "
                "inputs that it accepts, or verify=False",
                "",
                float("inf"),
            ) from error
        try:
            results = small.step(op, cuts.attrs.get(op, {}))
        except (RuntimeError, IndexError) as error:
            raise VerifyError(
                f"{_where(op)} cannot run once narrowed: {error}", _where(op), float("inf")
            ) from error
        for value, full, cut in zip(op.outputs, reference, results, strict=True):
            kept = cuts.kept(value)
            expected = cut_tensor(full, kept)
            gap = difference(expected, cut)
            if _mixes(op, cuts) or (gap > engine.tolerance and _inexact(op, cuts, masked)):
                outcome.exact = False
                outcome.mixing.append(op.name)
                masked.set(value, _scattered(full, cut, kept))
            elif gap > engine.tolerance and expected.shape == cut.shape and masked.draws(op):
                cut = expected  # numbers drawn for another length are others
                small.set(value, cut)
            elif gap > engine.tolerance:
                raise VerifyError(
                    f"removal differs from masking at {_where(op)}: largest relative difference "
                    f"{gap:.3g}",
                    _where(op),
                    gap,
                )
            else:
                outcome.difference = max(outcome.difference, gap)
                if full.is_floating_point() and not math.isfinite(float(full.sum())):
                    # 0/0 where all is masked (a normalised weight): nothing reads it but zeros.
                    masked.set(value, _scattered(full, cut, kept))
            if engine.coarse and full.is_floating_point() and cut.numel():
                scale = _scale(cut)
                rest = masked.get(value)
                masked.set(value, _scattered(rest, cut, kept, rest) * scale)
                small.set(value, cut * scale)
        masked.release(op)
        small.release(op)
    return outcome


class _Run:
    """The values of one run of the graph, each freed after its last use."""

    def __init__(
        self, graph: Graph, engine: Engine, source: Callable[[Value], torch.Tensor]
    ) -> None:
        self._engine = engine
        self._env: dict[Value, torch.Tensor] = {}
        self._source = source
        self._last = {value: op for op in graph.ops for value in op.inputs if value is not None}

    def operands(self, op: Op) -> Iterator[torch.Tensor | None]:
        for value in op.inputs:
            if value is not None and value not in self._env:
                self._env[value] = self._source(value)
            yield None if value is None else self._env[value]

    def step(self, op: Op, changed: dict[str, object]) -> list[torch.Tensor]:
        engine = self._engine
        results = engine.evaluate(op, list(self.operands(op)), changed, engine.dtype)
        self._env.update(zip(op.outputs, results, strict=True))
        return results

    def draws(self, op: Op) -> bool:
        """Whether an operation whose results are at hand would give other ones a second time."""
        tagged = torch.Tag.nondeterministic_seeded in tags(op)
        if not tagged and not is_random(op):
            return False
        if op.attrs.get("seed") is not None:  # the same numbers again, but others once narrowed
            return True
        again = self._engine.evaluate(op, list(self.operands(op)), {}, self._engine.dtype)
        known = (self._env[value] for value in op.outputs)
        return any(difference(a, b) > 0 for a, b in zip(known, again, strict=True))

    def set(self, value: Value, tensor: torch.Tensor) -> None:
        self._env[value] = tensor

    def get(self, value: Value) -> torch.Tensor:
        return self._env[value]

    def release(self, op: Op) -> None:
        for value in [*op.inputs, *op.outputs]:
            if value is not None and self._last.get(value) in (op, None):
                self._env.pop(value, None)


def _zero_points(cuts: Cuts) -> dict[Value, tuple[Value, int]]:
    """What stands for zero in each quantized weight, and along which dimension it may differ."""
    out: dict[Value, tuple[Value, int]] = {}
    for op, effect in cuts.deps.effects.items():
        for place, point, dim in effect.zeros:
            value, zero = op.inputs[place], op.inputs[point]
            if value is not None and zero is not None and value.is_weight and zero.is_weight:
                out[value] = (zero, dim)
    return out


def along(points: torch.Tensor, dim: int, rank: int) -> torch.Tensor:
    """Zero points, or scales, so that they broadcast against what they belong to."""
    if points.numel() == 1:
        return points.reshape(())
    return points.reshape([-1 if at == dim else 1 for at in range(rank)])


def _zeroed(
    tensor: torch.Tensor, cuts: Cuts, value: Value, zero: torch.Tensor | None = None
) -> torch.Tensor:
    """A weight whose removed slices hold nothing: zeros, or what stands for zero."""
    kept = cuts.weights.get(value)
    if kept is None or tensor is None:
        return tensor
    out = tensor
    if zero is None:
        zero = torch.zeros((), dtype=tensor.dtype, device=tensor.device)
    for dim, indices in enumerate(kept):
        if indices is not None:
            mask = torch.zeros(tensor.shape[dim], dtype=torch.bool, device=tensor.device)
            mask[torch.as_tensor(indices, device=tensor.device)] = True
            shape = [1] * tensor.dim()
            shape[dim] = -1
            out = torch.where(mask.view(shape), out, zero.to(tensor.dtype))
    return out


def _mixes(op: Op, cuts: Cuts) -> bool:
    return any(cuts.touches(dim) for dim in cuts.deps.effects[op].mixes)


def _inexact(op: Op, cuts: Cuts, masked: _Run) -> bool:
    """Whether the op sums over a removed axis on which no operand is zero."""
    gone = [dim for dim in cuts.deps.effects[op].contracts if cuts.touches(dim)]
    if not gone:
        return False
    operands = list(masked.operands(op))
    points = {place: (operands[point], dim) for place, point, dim in cuts.deps.effects[op].zeros}
    for place, (value, tensor) in enumerate(zip(op.inputs, operands, strict=True)):
        if value is None or tensor is None:
            continue
        point, dim = points.get(place, (None, 0))
        if point is not None:
            tensor = tensor.int() - along(point.int(), dim, tensor.dim())
        kept = cuts.kept(value)
        rest = tensor - _scattered(tensor, cut_tensor(tensor, kept), kept)
        if any(i is not None for i in kept) and not rest.any():
            return False
    return True


def _scattered(
    full: torch.Tensor,
    cut: torch.Tensor,
    kept: Sequence[object],
    rest: torch.Tensor | None = None,
) -> torch.Tensor:
    """The cut values at their places in a tensor of the full shape; elsewhere `rest`, or zero."""
    out = torch.zeros_like(full) if rest is None else rest.clone()
    grid = [
        torch.arange(size, device=full.device)
        if indices is None
        else torch.as_tensor(indices, device=full.device)
        for size, indices in zip(full.shape, kept, strict=True)
    ]
    if not grid:
        return cut.clone()
    out[torch.meshgrid(*grid, indexing="ij")] = cut
    return out


def _where(op: Op) -> str:
    return f"{op.module or 'the top-level module'} ({op.type}, {op.name})"


def _scale(tensor: torch.Tensor) -> float:
    """A power of two that brings a tensor beyond the limit back to about one."""
    largest = float(tensor.abs().max())
    return 2.0 ** -math.floor(math.log2(largest)) if _LIMIT < largest < math.inf else 1.0


class Verify(Pass):
    """Prove the surgery: removal equals masking, and the smaller model is the narrowed graph.

    - Requires: the smaller model, not yet compensated.
    - Ensures: both hold to rounding, or a `VerifyError`.
    """

    name = "verify"
    requires = ("choice", "lowered")
    ensures = ("lowered",)
    makes = True

    def run(self, work: Work) -> Outcome:
        """Run the narrowed and the masked graph side by side, then the smaller model."""
        seed = work.asked.seed
        if not work.asked.verify:
            return self.unchanged("off")
        engine = getattr(work.program, "engine", None)
        found = verify(work.cuts, work.program.flat_inputs(seed), seed, engine)
        work.verification = found
        before = work.lowered
        work.lowered, found.lowered = work.program.prove(work.expressed, before, seed)
        note = f"largest relative difference {found.difference:.1e}"
        return self.unchanged(note) if work.lowered is before else self.done(note)

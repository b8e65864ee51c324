"""verify: removal must equal masking.

The narrowed graph and the original one, every slice that the removed indices own set to zero,
are run side by side, operation by operation, in float64. The weights are perturbed first: a
branch that starts at zero would hide a fault. Operations that mix a removed axis
(normalisation, softmax) compute other statistics without it; there the survivors' values are
taken over and the comparison goes on behind them, as it does behind random numbers. Of an
operation that nothing here runs, numbers of its results' shapes stand for them in both graphs.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence

import torch

from graphprune.core.cuts import Cuts
from graphprune.core.effect import Encoding
from graphprune.core.errors import VerifyError
from graphprune.core.graph import Evaluator, Op, Value
from graphprune.core.proof import Verification
from graphprune.engine import integers
from graphprune.engine.granted import granted
from graphprune.engine.perturbed import perturbed
from graphprune.engine.run import Run, given_inputs
from graphprune.engine.tensors import cut_tensor, difference
from graphprune.pipeline import Outcome, Pass, Work
from graphprune.rules.facts import is_random
from graphprune.statistics.constants import BACKWARD_FACTOR
from graphprune.statistics.estimate import seconds
from graphprune.statistics.samples import captured

_RUNS = 12  # forwards in single precision that take as long as all that is run here
_ADDS_UP = 1e-4  # share of the tolerance: one operation rounds by less, a deep network by more
_LIMIT = 1e8  # larger numbers are scaled down where the type is coarse


def verify(
    cuts: Cuts, inputs: Sequence[torch.Tensor], seed: int = 0, engine: Evaluator | None = None
) -> Verification:
    """Check that removal equals masking.

    Args:
        cuts: The narrowed graph.
        inputs: Example inputs, in the order of the graph's.
        seed: For the perturbation of the weights.
        engine: What runs the operations, in place of the graph's own engine.

    Raises:
        VerifyError: The two disagree; names the first operation and the difference there.
    """
    graph = cuts.deps.source
    engine = engine or graph.engine
    outcome = Verification()
    read = {*graph.outputs, *(value for op in graph.ops for value in op.inputs)}
    weights = perturbed(graph, seed, engine.dtype)
    points = _zero_points(cuts)

    def zeroed(value: Value) -> torch.Tensor:
        how = points.get(value)
        zero = None
        if how is not None and how.zero is not None:
            zero = integers.zeros(weights(how.zero), how, value.shape)
        return _zeroed(weights(value), cuts, value, zero)

    def narrowed(value: Value) -> torch.Tensor:
        return cut_tensor(weights(value), cuts.weights.get(value, ()))

    given = given_inputs(graph, inputs, engine.dtype)
    dtype = engine.dtype
    masked = Run(graph, zeroed, [given], dtype=dtype, engine=engine, granted=granted(dtype))
    given = given_inputs(graph, inputs, engine.dtype)
    taken = granted(dtype, cuts)
    small = Run(graph, narrowed, [given], cuts.attrs, dtype, engine=engine, granted=taken)
    for op in _original(masked):
        if engine.lacks(op) and op.outputs:
            outcome.granted.append(f"{op.type} at {op.name}")
        try:
            small.step(op)
        except (RuntimeError, IndexError) as error:
            raise VerifyError(
                f"{_where(op)} cannot run once narrowed: {error}", _where(op), float("inf")
            ) from error
        for value in op.outputs:
            if value in read:  # nobody reads the first numbers of weights that code replaces
                _held_against(op, value, cuts, masked, small, engine, outcome)
        small.release(op)
    idle = {op.name for op in graph.idle()}
    outcome.mixing = [name for name in dict.fromkeys(outcome.mixing) if name not in idle]
    outcome.exact = not (outcome.mixing or outcome.granted)
    return outcome


def _held_against(
    op: Op,
    value: Value,
    cuts: Cuts,
    masked: Run,
    small: Run,
    engine: Evaluator,
    outcome: Verification,
) -> None:
    """Hold a result in both runs against one another; what differs for a reason is taken over.

    It is a function of its own so that no tensor is held while the next operation runs.
    """
    (full,), (cut,) = masked.values(value), small.values(value)
    kept = cuts.kept(value)
    if full.dim() != len(kept):  # what an optional holds: nothing is known of its shape
        kept = [None] * full.dim()
    expected = cut_tensor(full, kept)
    gap = difference(expected, cut)
    if _mixes(op, cuts) or (gap > engine.tolerance and _inexact(op, cuts, masked)):
        outcome.mixing.append(op.name)
        masked.replace(value, _scattered(full, cut, kept))
    elif gap > engine.tolerance and expected.shape == cut.shape and _draws(op, masked, engine):
        cut = expected  # numbers drawn for another length are others
        small.replace(value, cut)
    elif gap > engine.tolerance and _alike(op, cuts, value, masked, small, engine):
        masked.replace(value, _scattered(full, cut, kept, full))
    elif gap > engine.tolerance:
        raise VerifyError(
            f"removal differs from masking at {_where(op)}: largest relative difference {gap:.3g}",
            _where(op),
            gap,
        )
    else:
        outcome.difference = max(outcome.difference, gap)
        if full.is_floating_point() and not math.isfinite(float(full.sum())):
            # 0/0 where all is masked (a normalised weight): nothing reads it but zeros.
            masked.replace(value, _scattered(full, cut, kept))
    adds_up = engine.coarse or gap > _ADDS_UP * engine.tolerance
    if adds_up and full.is_floating_point() and cut.numel():
        del full, expected
        scale = _scale(cut) if engine.coarse else 1.0
        if gap > 0:
            (rest,) = masked.values(value)
            masked.replace(value, _scattered(rest, cut, kept, rest))
        if scale != 1.0:
            for run in (masked, small):
                run.replace(value, run.values(value)[0] * scale)


def _original(masked: Run) -> Iterator[Op]:
    """Each operation of the original, once it has run."""
    try:
        yield from masked.steps()
    except RuntimeError as error:
        raise VerifyError(
            f"the original model does not run by single operations: {error}; pass example "
            "inputs that it accepts, or verify=False",
            "",
            float("inf"),
        ) from error


def _zero_points(cuts: Cuts) -> dict[Value, Encoding]:
    """How the integers of each quantized weight stand for numbers, where one stands for zero."""
    out: dict[Value, Encoding] = {}
    for op, effect in cuts.deps.effects.items():
        for place, how in effect.encodings.items():
            value, zero = op.inputs[place], how.zero
            if value is not None and zero is not None and value.is_weight and zero.is_weight:
                out[value] = how
    return out


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


def _draws(op: Op, masked: Run, engine: Evaluator) -> bool:
    """Whether an operation that has run would give other results a second time."""
    if not engine.random(op) and not is_random(op):
        return False
    if op.attrs.get("seed") is not None:  # the same numbers again, but others once narrowed
        return True
    held = [tensor for value in op.outputs for tensor in masked.values(value)]
    known = [tensor.clone() for tensor in held] if engine.writes(op) else held
    drawn = any(difference(a, b) > 0 for a, b in zip(known, masked.again(op), strict=True))
    if engine.writes(op):  # the second run wrote over the first one's results
        for tensor, before in zip(held, known, strict=True):
            tensor.copy_(before)
    return drawn


def _inexact(op: Op, cuts: Cuts, masked: Run) -> bool:
    """Whether the op sums over a removed axis on which no operand is zero."""
    gone = [dim for dim in cuts.deps.effects[op].contracts if cuts.touches(dim)]
    if not gone:
        return False
    operands = masked.operands(op)
    told = cuts.deps.effects[op].encodings
    for place, (value, tensor) in enumerate(zip(op.inputs, operands, strict=True)):
        if value is None or tensor is None:
            continue
        how = told.get(place)
        point = None if how is None or how.zero is None else operands[op.inputs.index(how.zero)]
        if how is not None and point is not None:
            tensor = tensor.int() - integers.zeros(point.int(), how, tensor.shape)
        kept = cuts.kept(value)
        rest = _numbers(tensor) - _numbers(_scattered(tensor, cut_tensor(tensor, kept), kept))
        if any(i is not None for i in kept) and not rest.any():
            return False
    return True


def _alike(op: Op, cuts: Cuts, value: Value, masked: Run, small: Run, engine: Evaluator) -> bool:
    """Whether an operation gives the same in both runs where rounding plays no part."""
    if engine.exact is None:
        return False
    found = []
    for run in (masked, small):
        try:
            results = run.again(op, engine.exact)
        except RuntimeError:  # the finer engine does not know it: the first verdict stands
            return False
        found.append(results[op.outputs.index(value)])
    expected = cut_tensor(found[0], cuts.kept(value))
    return difference(expected, found[1]) <= engine.tolerance


def _numbers(tensor: torch.Tensor) -> torch.Tensor:
    """A tensor that can be subtracted: truth values as integers."""
    return tensor.int() if tensor.dtype is torch.bool else tensor


def _scattered(
    full: torch.Tensor,
    cut: torch.Tensor,
    kept: Sequence[object],
    rest: torch.Tensor | None = None,
) -> torch.Tensor:
    """The cut values at their places in a tensor of the full shape; elsewhere `rest`, or zero."""
    cuts = [dim for dim, indices in enumerate(kept) if indices is not None]
    if not cuts:
        return cut.clone()
    out = torch.zeros_like(full) if rest is None else rest.clone()
    if len(cuts) == 1:
        picked = torch.as_tensor(kept[cuts[0]], device=full.device)
        return out.index_copy_(cuts[0], picked, cut)
    grid = [
        torch.arange(size, device=full.device)
        if indices is None
        else torch.as_tensor(indices, device=full.device)
        for size, indices in zip(full.shape, kept, strict=True)
    ]
    out[torch.meshgrid(*grid, indexing="ij")] = cut
    return out


def _where(op: Op) -> str:
    return f"{op.module or 'the top-level module'} ({op.type}, {op.name})"


def _scale(tensor: torch.Tensor) -> float:
    """A power of two that brings a tensor beyond the limit back to about one."""
    low, high = tensor.aminmax()
    largest = max(-float(low), float(high))
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

    def takes(self, work: Work, effort: str | float) -> float:
        """Runs of the captured batch, in double precision."""
        if not work.asked.verify:
            return 0.0
        return _RUNS * seconds(work.deps, captured(work.deps), 1) / BACKWARD_FACTOR

    def run(self, work: Work) -> Outcome:
        """Run the narrowed and the masked graph side by side, then the smaller model."""
        seed = work.asked.seed
        if not work.asked.verify:
            return self.unchanged("off")
        found = verify(work.cuts, work.program.flat_inputs(seed), seed)
        work.verification = found
        before = work.lowered
        work.lowered, found.lowered = work.program.prove(work.expressed, before, seed)
        note = f"largest relative difference {found.difference:.1e}"
        return self.unchanged(note) if work.lowered is before else self.done(note)

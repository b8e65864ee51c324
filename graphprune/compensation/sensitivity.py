"""sensitivity: how much an error in each linear operation's output changes the network's results.

Loss curves of different groups compare only if a unit of error in one layer is weighed against a
unit in another. After the refit, the error left in an output channel y looks like a small part of
y's own variation. To the first order, a relative error of variance e in y changes the results by
the variance

    e * E[(Σ_positions g · (y - E y))²],

where g is the gradient with respect to y of the results in a random direction, in units of their
standard deviation. The mean over directions is the diagonal of the Gauss-Newton matrix, as in
Hutchinson's estimator (A Stochastic Estimator of the Trace, 1989). Divided by Var y, it is the
factor for an absolute error.

Example:
    Results 3 y₁ + y₂, with y₁ and y₂ independent and of variance 1: errors in y₁ count nine times
    as much as errors in y₂.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import islice

import torch

from graphprune.compensation.constants import (
    GRADIENT_BYTES,
    PERTURBED_POWER,
    SENSED_LEAST,
    SENSED_MACS,
    SENSED_MOST,
)
from graphprune.compensation.perturb import perturb
from graphprune.core.allowance import UNLIMITED, Allowance
from graphprune.core.graph import Op, Value
from graphprune.core.groups import Dependencies
from graphprune.engine.run import Chunk
from graphprune.engine.tensors import as_dtype
from graphprune.engine.trial import Trial
from graphprune.rules.readings import output_channel
from graphprune.statistics.constants import VARIANCE_FLOOR
from graphprune.statistics.estimate import elements_of, macs_of
from graphprune.statistics.order import Arranged
from graphprune.statistics.samples import Samples, captured, recut, walk


@dataclass(frozen=True)
class Sensitivity:
    """How much the squared error of the results, as a share of their variance, grows.

    Attributes:
        channels: Per unit of squared error in each output channel; empty where not known.
        whole: Per relative squared error in all output channels together.
    """

    channels: torch.Tensor
    whole: float


def sensitivities(
    deps: Dependencies, samples: Samples, ops: Sequence[Op], allowed: Allowance = UNLIMITED
) -> dict[Op, Sensitivity] | None:
    """Measure how much the results depend on each linear operation.

    Args:
        deps: The analysis.
        samples: The inputs; a few of them are used.
        ops: The linear operations.
        allowed: Time after which no further samples are used, or that perturbed runs may take.

    Returns:
        The sensitivity of each operation that gradients reach; of each operation, by `perturb`,
        where the graph has no gradients (ONNX). None where that takes too much memory or time.
    """
    size = _fitting(deps, samples.size)
    if size is None:
        return None
    traced = deps.source.engine.differentiable
    number = SENSED_LEAST
    if traced:
        number = int(SENSED_MACS / max(macs_of(deps), 1.0))
        number = min(max(number, SENSED_LEAST), SENSED_MOST)
    chunks = list(islice(recut(deps, samples, size), max(number // size, 1)))
    few = replace(samples, chunks=chunks, size=size, statistics=dict(samples.statistics))
    if few.norms:
        for _ in walk(deps, few):  # fills the statistics of the batch norms
            pass
    if not traced:
        return _perturbed(deps, few, ops, allowed)
    weights = {value: _weight(few, value) for value in deps.source.weights.values()}
    trial = Trial(deps, size, weights=weights)
    wanted = {op.outputs[0]: _arranged(deps, op, size) for op in ops}
    found: dict[Value, list[torch.Tensor]] = {}
    try:
        for number, chunk in enumerate(chunks):
            if number and allowed.spent >= 1:
                break
            for value, shares in _sensed(trial, chunk, wanted, size, number).items():
                found.setdefault(value, []).append(shares)
    except (RuntimeError, IndexError, TypeError, ValueError):  # no gradients, or another batch size
        return None
    return {op: _mean(found[op.outputs[0]]) for op in ops if op.outputs[0] in found}


def _perturbed(
    deps: Dependencies, few: Samples, ops: Sequence[Op], allowed: Allowance
) -> dict[Op, Sensitivity] | None:
    """Sensitivities by perturbation: of whole operations, not of their channels.

    Few samples and a single random direction give a rough estimate. Its power `PERTURBED_POWER` < 1
    lies between this estimate and equal sensitivities.
    """
    try:
        found = perturb(deps, few, ops, allowed)
    except (RuntimeError, IndexError, TypeError, ValueError):  # it does not run at this batch size
        return None
    if found is None:
        return None
    return {op: Sensitivity(torch.empty(0), whole**PERTURBED_POWER) for op, whole in found.items()}


def _mean(found: Sequence[torch.Tensor]) -> Sensitivity:
    """The sensitivity over several runs, each `2 x channels` as `_share` returns them."""
    share, variance = torch.stack(list(found)).mean(0)
    return Sensitivity(share / (variance + VARIANCE_FLOOR), float(share.sum()))


def _fitting(deps: Dependencies, size: int) -> int | None:
    """`size`, else the captured batch size, if all values of a run fit into memory; else None."""
    each = 4 * elements_of(deps)
    return next((n for n in (size, captured(deps)) if n * each <= GRADIENT_BYTES), None)


def _arranged(deps: Dependencies, op: Op, size: int) -> Arranged:
    """How to read an operation's result."""
    value = op.outputs[0]
    return Arranged.of(deps, value, output_channel(op, len(value.shape)), size)


def _weight(samples: Samples, value: Value) -> torch.Tensor:
    """A weight for the run; parameters require gradients, so that they reach every operation."""
    tensor = as_dtype(samples.weight(value), torch.float32)
    starts = value.kind == "parameter" and tensor.is_floating_point()
    return tensor.requires_grad_() if starts else tensor


def _sensed(
    trial: Trial, chunk: Chunk, wanted: Mapping[Value, Arranged], size: int, seed: int
) -> dict[Value, torch.Tensor]:
    """Sensitivity and variance of each wanted value in one run: `2 x channels`, as `_share`.

    Args:
        trial: Runs the original.
        chunk: The inputs.
        wanted: Results of linear operations, and how to read them.
        size: Number of samples.
        seed: For the random direction.
    """
    held: dict[Value, torch.Tensor] = {}

    def watch(op: Op, operands: list[torch.Tensor | None]) -> None:
        for at, (value, x) in enumerate(zip(op.inputs, operands, strict=True)):
            if value is not None and value in wanted and x is not None and _follows(x):
                held[value] = x
                if trial.writes(op):
                    operands[at] = x.clone()

    with torch.enable_grad():
        results = trial.run(chunk, watch)
        ends = zip(trial.outputs, results, strict=True)
        held.update({v: x for v, x in ends if v in wanted and _follows(x)})
        gradients = torch.autograd.grad(
            _projected(results, seed, size), list(held.values()), allow_unused=True
        )
    return {
        value: _share(wanted[value].by_sample(x.detach()), wanted[value].by_sample(g))
        for (value, x), g in zip(held.items(), gradients, strict=True)
        if g is not None
    }


def _follows(x: torch.Tensor) -> bool:
    """Whether a tensor is real and has a gradient."""
    return x.is_floating_point() and x.requires_grad


def _projected(results: Sequence[torch.Tensor], seed: int, size: int) -> torch.Tensor:
    """Σ direction · result / standard deviation, over a normal direction of unit mean square.

    Args:
        results: Those of a run.
        seed: For the direction.
        size: Number of samples.
    """
    generator = torch.Generator().manual_seed(seed)
    total = torch.zeros(())
    for x in results:
        if _follows(x):
            direction = torch.randn(x.shape, generator=generator).to(x)
            spread = x.detach().std(unbiased=False) + VARIANCE_FLOOR
            scale = spread * max(x.numel() / size, 1.0) ** 0.5
            total = total.to(x) + (direction * x).sum() / scale
    return total


def _share(y: torch.Tensor, gradient: torch.Tensor) -> torch.Tensor:
    """E[(Σ_positions g · (y - E y))²] and Var y of each channel: `2 x channels`, in float64.

    Args:
        y: A result, `samples x positions x channels`.
        gradient: Its gradient, likewise.
    """
    centred = y - y.mean([0, 1], keepdim=True)
    inner = (gradient * centred).sum(1).double()  # samples x channels
    return torch.stack([inner.square().mean(0), centred.square().mean([0, 1]).double()])

"""sense: how much the results depend on what each linear operation computes.

What a group's removal leaves undone changes results by as much as they follow the operations that
read it. Once it is made up for, the error of an output channel y resembles what varies in it, so
that its share of the results' error is, to the first order,

    E[(Σ_positions g · (y - E y))²] / Var y,

per unit of the channel's squared error, with g the gradient of the results in a random direction
(Hutchinson, A Stochastic Estimator of the Trace, 1989), relative to their spread. The results' own
squared error is what Gauss-Newton approximations of the Hessian measure.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import islice

import torch

from graphprune.compensation.perturb import perturb
from graphprune.core.graph import Op, Value
from graphprune.core.groups import Dependencies
from graphprune.engine.run import Chunk
from graphprune.engine.tensors import as_dtype
from graphprune.engine.trial import Trial
from graphprune.rules.facts import output_channel
from graphprune.statistics.estimate import elements_of, macs_of
from graphprune.statistics.samples import Samples, captured, recut, walk

_ENOUGH, _FEWEST, _WORK = 64, 8, 5e10  # samples; multiply-accumulates of a pass over them
_MEMORY = 1 << 30  # bytes that the values of a run may take, all of which are kept for gradients
_TRUST = 0.5  # in what perturbations tell: an exponent
_SMALL = 1e-12


@dataclass(frozen=True)
class Sense:
    """By how much the squared error of the results grows, as a share of their variance.

    Attributes:
        channels: With the squared error of each output channel, per unit.
        whole: With that of all channels, as a share of theirs.
    """

    channels: torch.Tensor
    whole: float


def sense(deps: Dependencies, samples: Samples, ops: Sequence[Op]) -> dict[Op, Sense] | None:
    """Measure the dependence of the results.

    Args:
        deps: The analysis.
        samples: Inputs.
        ops: Operations that are linear.

    Returns:
        For each operation that gradients reach, or all where PyTorch does not run the graph
        (`perturb`); None where that would take too much memory or time.
    """
    size = _fitting(deps, samples.size)
    if size is None:
        return None
    if samples.norms:
        for _ in walk(deps, samples):  # batch norms take the samples' own statistics
            pass
    if not deps.source.engine.differentiable:
        return _perturbed(deps, samples, size, ops)
    weights = {value: _weight(samples, value) for value in deps.source.weights.values()}
    trial = Trial(deps, size, weights=weights)
    wanted = {op.outputs[0]: op for op in ops}
    found: dict[Value, list[torch.Tensor]] = {}
    number = min(max(int(_WORK / max(macs_of(deps), 1.0)), _FEWEST), _ENOUGH)
    chunks = list(islice(recut(deps, samples, size), max(number // size, 1)))
    try:
        for number, chunk in enumerate(chunks):
            for value, shares in _sensed(trial, chunk, wanted, number).items():
                found.setdefault(value, []).append(shares)
    except (RuntimeError, IndexError, TypeError, ValueError):  # no gradients, or not of so few
        return None
    return {wanted[value]: _mean(shares) for value, shares in found.items()}


def _perturbed(
    deps: Dependencies, samples: Samples, size: int, ops: Sequence[Op]
) -> dict[Op, Sense] | None:
    """What operations count as a whole; nothing is told of their channels.

    So few samples tell roughly: halfway to what counts all operations alike harms least.
    """
    chunks = list(islice(recut(deps, samples, size), max(_FEWEST // size, 1)))
    try:
        found = perturb(deps, samples, chunks, size, ops)
    except (RuntimeError, IndexError, TypeError, ValueError):  # it does not run on so few
        return None
    if found is None:
        return None
    return {op: Sense(torch.empty(0), whole**_TRUST) for op, whole in found.items()}


def _mean(found: Sequence[torch.Tensor]) -> Sense:
    share, variance = torch.stack(list(found)).mean(0)
    return Sense(share / (variance + _SMALL), float(share.sum()))


def _fitting(deps: Dependencies, size: int) -> int | None:
    """Samples in a run whose values fit into memory."""
    each = 4 * elements_of(deps)
    return next((n for n in (size, captured(deps)) if n * each <= _MEMORY), None)


def _weight(samples: Samples, value: Value) -> torch.Tensor:
    """A weight as the samples should meet it; gradients start at parameters."""
    tensor = as_dtype(samples.weight(value), torch.float32)
    starts = value.kind == "parameter" and tensor.is_floating_point()
    return tensor.requires_grad_() if starts else tensor


def _sensed(
    trial: Trial, chunk: Chunk, wanted: Mapping[Value, Op], seed: int
) -> dict[Value, torch.Tensor]:
    """What one run tells of each wanted value."""
    held: dict[Value, torch.Tensor] = {}

    def watch(op: Op, operands: list[torch.Tensor | None]) -> None:
        for value, x in zip(op.inputs, operands, strict=True):
            if value is not None and value in wanted and x is not None and _follows(x):
                held[value] = x

    with torch.enable_grad():
        results = trial.run(chunk, watch)
        ends = zip(trial.outputs, results, strict=True)
        held.update({v: x for v, x in ends if v in wanted and _follows(x)})
        gradients = torch.autograd.grad(
            _projected(results, seed), list(held.values()), allow_unused=True
        )
    return {
        value: _share(x.detach(), g, output_channel(wanted[value], x.dim()))
        for (value, x), g in zip(held.items(), gradients, strict=True)
        if g is not None
    }


def _follows(x: torch.Tensor) -> bool:
    """Whether gradients reach a real tensor."""
    return x.is_floating_point() and x.requires_grad


def _projected(results: Sequence[torch.Tensor], seed: int) -> torch.Tensor:
    """The results in a random direction, each relative to its spread."""
    generator = torch.Generator().manual_seed(seed)
    total = torch.zeros(())
    for x in results:
        if _follows(x):
            direction = torch.randn(x.shape, generator=generator).to(x)
            spread = x.detach().std(unbiased=False) + _SMALL
            scale = spread * (x.numel() / len(x)) ** 0.5 if x.dim() else spread
            total = total.to(x) + (direction * x).sum() / scale
    return total


def _share(y: torch.Tensor, gradient: torch.Tensor, channel: int) -> torch.Tensor:
    """Share in the error of the results, and variance, of each channel: `2 x channels`."""
    y, gradient = (x.movedim(channel, -1) for x in (y, gradient))
    y, gradient = (x.reshape(len(x), -1, x.shape[-1]) for x in (y, gradient))
    centred = y - y.mean([0, 1], keepdim=True)
    inner = (gradient * centred).sum(1).double()  # samples x channels
    return torch.stack([inner.square().mean(0), centred.square().mean([0, 1]).double()])

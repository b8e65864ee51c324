"""polish: fit all weights that stay at once, so that the results are those of the original.

`compensate` solves for one operation after the other. Errors that are left add up behind products
of activations, gates and recurrent states, which no linear solve sees. A short descent over the
same unlabelled samples, on the squared difference of the results and of what every linear
operation reads, each relative to its variance, makes up for part of that (as reconstruction does
after quantisation: Li et al., BRECQ, 2021). First both are done with a quarter of the samples held
out: where the descent does not bring the results on them nearer to the original's than the solve
did, the weights stay as they were solved for.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace

import torch

from graphprune.compensation.compensate import Compensation, compensate
from graphprune.compensation.consumers import find_consumers
from graphprune.core.allowance import Allowance
from graphprune.core.cuts import Cuts
from graphprune.core.graph import Op, Value
from graphprune.core.groups import Dependencies
from graphprune.engine.run import Chunk, sampled
from graphprune.engine.tensors import as_dtype, cut_tensor
from graphprune.engine.trial import Trial
from graphprune.statistics.made.augment import augmented
from graphprune.statistics.samples import Samples, captured, recut

STEPS = 300
_RATE = 1e-3
_PARTS = 4  # of the samples, one of which is held out
_NOTHING = 1e-6  # of the results' variance, less than which is nothing left to gain
_TRIAL, _FINAL = 0.45, 0.9  # of the time that is left, for each of the two descents
_AGES = Allowance()


def polish(
    cuts: Cuts,
    samples: Samples,
    solved: Compensation,
    steps: int = STEPS,
    advance: Callable[[float], None] = lambda _: None,
    allowed: Allowance = _AGES,
) -> Compensation:
    """Improve on the weights that were solved for.

    Args:
        cuts: The narrowed graph.
        samples: Inputs that stored statistics fit to.
        solved: The weights to start from.
        steps: Of the descent, which is done twice.
        advance: Called with the share of the work that is done.
        allowed: Time that both may take.

    Returns:
        New weights, or those given where the results do not come nearer to the original's.
    """
    chunks, size = parts(cuts.deps, samples)
    if len(chunks) < _PARTS or samples.norms:
        return solved
    held = max(len(chunks) // _PARTS, 1)
    seen = replace(samples, chunks=chunks[:-held], size=size)
    trial = _Polisher(cuts, size, compensate(cuts, seen))
    before = trial.off(chunks[-held:])
    if before <= _NOTHING:
        return solved
    trial.run(seen.chunks, steps, lambda done: advance(done / 2), allowed.part(_TRIAL))
    if not trial.off(chunks[-held:]) < before:  # nor where it is not a number
        return solved
    final = _Polisher(cuts, size, solved)
    return final.run(chunks, steps, lambda done: advance((1 + done) / 2), allowed.part(_FINAL))


def parts(deps: Dependencies, samples: Samples) -> tuple[list[Chunk], int]:
    """The samples in chunks, some of which can be held out, and the size of a chunk."""
    size = samples.size
    if len(samples.chunks) >= _PARTS or size == captured(deps) or size % _PARTS:
        return samples.chunks, size
    size //= _PARTS
    return list(recut(deps, samples, size)), size


class _Polisher:
    def __init__(self, cuts: Cuts, size: int, solved: Compensation) -> None:
        self._cuts = cuts
        self._solved = solved
        self._sampled = sampled(cuts.deps)
        self._graph = cuts.deps.source
        weights = {value: self._start(value) for value in self._graph.weights.values()}
        self._free = {
            value: tensor
            for value, tensor in weights.items()
            if value.kind == "parameter" and tensor.is_floating_point()
        }
        self._dense = Trial(cuts.deps, size)
        self._small = Trial(cuts.deps, size, cuts.keep, weights)
        found = find_consumers(cuts.deps).by_op.values()
        self._read = dict.fromkeys(c.source for several in found for c in several)

    def _start(self, value: Value) -> torch.Tensor:
        tensor = self._solved.values.get(value)
        if tensor is None:
            tensor = cut_tensor(value.tensor.detach(), self._cuts.weights.get(value, ()))
        return as_dtype(tensor, torch.float32).clone()

    def run(
        self,
        chunks: Sequence[Chunk],
        steps: int,
        advance: Callable[[float], None],
        allowed: Allowance,
    ) -> Compensation:
        start = {value: tensor.clone() for value, tensor in self._free.items()}
        for tensor in self._free.values():
            tensor.requires_grad_()
        optimizer = torch.optim.Adam(self._free.values(), _RATE)
        for done in range(steps):
            share = max(done / steps, allowed.spent)
            if share >= 1:
                break
            optimizer.param_groups[0]["lr"] = _RATE * (1 + math.cos(math.pi * share)) / 2
            optimizer.zero_grad()
            with torch.enable_grad():
                torch.autograd.backward(self._loss(self._chunk(chunks, done)))
            optimizer.step()
            advance((done + 1) / steps)
        new = {
            value: tensor.detach().to(value.tensor.dtype)
            for value, tensor in self._free.items()
            if not torch.equal(tensor, start[value])
        }
        return Compensation({**self._solved.values, **new}, self._solved.left)

    def _chunk(self, chunks: Sequence[Chunk], step: int) -> Chunk:
        """The samples of a step, every pass over them changed in another way."""
        rounds, at = divmod(step, len(chunks))
        return augmented(chunks[at], self._sampled, rounds, step)

    def _loss(self, chunk: Chunk) -> torch.Tensor:
        """Differences of the results and of what linear operations read."""
        wanted, outputs = self._seen(self._dense, chunk)
        got, found = self._seen(self._small, chunk)
        inside = [_relative(got[v], cut_tensor(x, self._cuts.kept(v))) for v, x in wanted.items()]
        ends = [_relative(b, a) for a, b in zip(outputs, found, strict=True)]
        return torch.stack([*inside, *ends]).mean() + torch.stack(ends).mean()

    def _seen(
        self, trial: Trial, chunk: Chunk
    ) -> tuple[Mapping[Value, torch.Tensor], list[torch.Tensor]]:
        """What linear operations read in a run, and its results."""
        read: dict[Value, torch.Tensor] = {}

        def watch(op: Op, operands: list[torch.Tensor | None]) -> None:
            for value, operand in zip(op.inputs, operands, strict=True):
                if value in self._read and value is not None and value.kind == "result":
                    assert operand is not None
                    read[value] = operand

        with torch.set_grad_enabled(trial is self._small and torch.is_grad_enabled()):
            outputs = trial.run(chunk, watch)
        return read, [x for x in outputs if x.is_floating_point()]

    def off(self, chunks: Sequence[Chunk]) -> float:
        """The mean difference of the results."""
        total = 0.0
        with torch.no_grad():
            for chunk in chunks:
                pairs = zip(self._dense.run(chunk), self._small.run(chunk), strict=True)
                total += sum(float(_relative(b, a)) for a, b in pairs if a.is_floating_point())
        return total / len(chunks)


def _relative(found: torch.Tensor, wanted: torch.Tensor) -> torch.Tensor:
    """Squared difference, as a share of the variance."""
    return (found - wanted).square().mean() / (wanted.var(unbiased=False) + 1e-8)

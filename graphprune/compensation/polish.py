"""polish: a short gradient descent on all weights at once, towards the original's outputs.

`compensate` refits one operation after another. What it leaves adds up after products of
activations, gates and recurrent states, which no linear regression sees. The descent uses the same
samples, without labels. Its loss is the relative squared error of the outputs and of what linear
operations read:

    loss = mean over all of these of |y' - y|² / Var y  +  mean over the outputs of the same

(knowledge distillation with all layers as targets; block reconstruction after quantisation does the
same: Li et al., BRECQ, ICLR 2021). Steps are `Muon`'s: of the same share of each weight's norm, and
the shorter the less there is to make up for.

A few samples can be overfitted. So refit and a shorter descent, of fewer samples a step, are first
done without one part of the samples in `PARTS`. Where this trial raises the error of the outputs on
that part by more than `TRIAL_WORSE`, the weights of the refit stay; otherwise the descent follows
with all samples. With `effort="auto"` no descent is begun where both networks give the same answers
on that part and their outputs hardly differ: little is left to gain.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace

import torch
import torch.nn.functional as F

from graphprune.compensation.compensate import Compensation, compensate
from graphprune.compensation.constants import (
    ERROR_NEGLIGIBLE,
    FINAL_TIME,
    OUTPUT_VARIANCE_FLOOR,
    PARTS,
    POLISH_RATE,
    POLISH_STEPS,
    POLISHED_LEAST,
    STEP_SAMPLES,
    TRIAL_SAMPLES,
    TRIAL_STEPS,
    TRIAL_TIME,
    TRIAL_WORSE,
)
from graphprune.compensation.consumers import find_consumers
from graphprune.core.allowance import UNLIMITED, Allowance
from graphprune.core.cuts import Cuts
from graphprune.core.graph import Op, Value
from graphprune.core.groups import Dependencies
from graphprune.engine.muon import Muon
from graphprune.engine.run import Chunk, sampled
from graphprune.engine.tensors import as_dtype, cut_tensor
from graphprune.engine.trial import Trial
from graphprune.importance.freedom import Masks
from graphprune.statistics.answers import scored
from graphprune.statistics.made.augment import augmented
from graphprune.statistics.samples import Samples, captured, recut


def polish(
    cuts: Cuts,
    samples: Samples,
    solved: Compensation,
    free: Masks,
    steps: int = POLISH_STEPS,
    advance: Callable[[float], None] = lambda _: None,
    allowed: Allowance = UNLIMITED,
    enough: float = ERROR_NEGLIGIBLE,
) -> Compensation:
    """Improve the weights of the refit.

    Args:
        cuts: The narrowed graph.
        samples: The inputs. Where batch norms need the samples' own statistics, nothing is done:
            the smaller network would be fitted to inputs that it will not meet.
        solved: The weights of the refit.
        free: The indices whose removal changes no result.
        steps: Steps of the descent; the trial before it takes fewer.
        advance: Called with the share of the work that is done.
        allowed: Time that both may take.
        enough: Relative squared error of the outputs at which no descent is begun where, besides,
            both networks give the same answers.

    Returns:
        New weights; `solved` itself where held-out samples lose.
    """
    ours = parts(cuts.deps, samples)
    number = ours.size * len(ours.chunks)
    if len(ours.chunks) < PARTS or number < POLISHED_LEAST or samples.norms:
        return solved
    held = max(len(ours.chunks) // PARTS, 1)
    seen, unseen = (replace(ours, chunks=x) for x in (ours.chunks[:-held], ours.chunks[-held:]))
    fitted = compensate(cuts, seen, free)
    few = parts(cuts.deps, seen, TRIAL_SAMPLES)
    judges = list(recut(cuts.deps, unseen, few.size))  # the trial's graph is made for that size
    trial = _Polisher(cuts, few.size, fitted)
    before = trial.off(judges)
    if trial.settled(judges, before, enough):
        return solved
    rate = POLISH_RATE * min(math.sqrt(before), 1.0)
    brief = trial_steps(steps)
    share = brief * few.size / (brief * few.size + steps * ours.size)
    first = allowed.part(TRIAL_TIME)
    trial.run(few.chunks, brief, rate, lambda done: advance(share * done), first)
    worse = not trial.off(judges) < TRIAL_WORSE * before  # true for NaN, too
    if worse or allowed.spent >= 1:
        return solved
    return _Polisher(cuts, ours.size, solved).run(
        ours.chunks,
        steps,
        rate,
        lambda done: advance(share + (1 - share) * done),
        allowed.part(FINAL_TIME),
    )


def trial_steps(steps: int) -> int:
    """Steps of the trial before a descent of so many."""
    return max(int(steps * TRIAL_STEPS), 1)


def parts(deps: Dependencies, samples: Samples, most: int = STEP_SAMPLES) -> Samples:
    """The samples in chunks for the steps of a descent.

    Args:
        deps: The analysis.
        samples: The samples.
        most: Samples in a chunk, where chunks can be halved so far. They are where the graph runs
            at other batch sizes than the one it was captured with, down to that one.

    Returns:
        The same samples, in at least `PARTS` chunks where possible.
    """
    number, size = samples.size * len(samples.chunks), samples.size
    while size % 2 == 0 and size // 2 >= captured(deps) and (size > most or number < size * PARTS):
        size //= 2
    return replace(samples, chunks=list(recut(deps, samples, size)), size=size)


class _Polisher:
    """The original and the smaller network, whose floating-point parameters are optimised."""

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
        self._kept: dict[Value, list[torch.Tensor | None]] = {}
        found = find_consumers(cuts.deps)
        self._read = dict.fromkeys(c.value for several in found.by_op.values() for c in several)
        self._linear = found.weights

    def _start(self, value: Value) -> torch.Tensor:
        """A weight to start from, as solved for or as cut, in float32."""
        tensor = self._solved.values.get(value)
        if tensor is None:
            tensor = cut_tensor(value.tensor.detach(), self._cuts.weights.get(value, ()))
        return as_dtype(tensor, torch.float32).clone()

    def run(
        self,
        chunks: Sequence[Chunk],
        steps: int,
        rate: float,
        advance: Callable[[float], None],
        allowed: Allowance,
    ) -> Compensation:
        """Descend with a rate that falls to zero as a cosine.

        Args:
            chunks: The samples; one chunk a step, in turn.
            steps: Number of steps.
            rate: The share of its norm by which the first step changes a weight.
            advance: Called with the share of the steps that is done.
            allowed: Time it may take.

        Returns:
            The weights, with all those that have changed.
        """
        start = {value: tensor.clone() for value, tensor in self._free.items()}
        for tensor in self._free.values():
            tensor.requires_grad_()
        linear = [tensor for value, tensor in self._free.items() if value in self._linear]
        others = [tensor for value, tensor in self._free.items() if value not in self._linear]
        optimizer = Muon(linear, others, rate)
        for done in range(steps):
            share = max(done / steps, allowed.spent)
            if share >= 1:
                break
            for group in optimizer.param_groups:
                group["lr"] = rate * (1 + math.cos(math.pi * share)) / 2
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
        """The samples of a step, augmented in another way in each pass over all of them."""
        rounds, at = divmod(step, len(chunks))
        return augmented(chunks[at], self._sampled, rounds, step)

    def _loss(self, chunk: Chunk) -> torch.Tensor:
        """The loss of one chunk (see above)."""
        wanted, outputs = self._seen(self._dense, chunk)
        got, found = self._seen(self._small, chunk)
        inside = [_relative(got[v], self._cut(v, x)) for v, x in wanted.items()]
        ends = [_relative(b, a) for a, b in zip(outputs, found, strict=True)]
        return torch.stack([*inside, *ends]).mean() + torch.stack(ends).mean()

    def _cut(self, value: Value, x: torch.Tensor) -> torch.Tensor:
        """What stays of a value of the original."""
        if value not in self._kept:
            self._kept[value] = [
                None if kept is None else torch.as_tensor(kept, device=x.device)
                for kept in self._cuts.kept(value)
            ]
        return cut_tensor(x, self._kept[value])

    def _seen(
        self, trial: Trial, chunk: Chunk
    ) -> tuple[Mapping[Value, torch.Tensor], list[torch.Tensor]]:
        """The values that linear operations read in a run, and its floating-point outputs."""
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
        """The relative squared error of the outputs, summed over outputs, mean over chunks."""
        total = 0.0
        with torch.no_grad():
            for chunk in chunks:
                pairs = zip(self._dense.run(chunk), self._small.run(chunk), strict=True)
                total += sum(float(_relative(b, a)) for a, b in pairs if a.is_floating_point())
        return total / len(chunks)

    def settled(self, chunks: Sequence[Chunk], error: float, enough: float) -> bool:
        """Whether nothing is left to gain: outputs hardly differ, and all answers are the same.

        Args:
            chunks: The samples.
            error: What `off` says of them.
            enough: The error that is small enough.
        """
        if error <= ERROR_NEGLIGIBLE:
            return True
        scores = dict(zip(self._graph.outputs, scored(self._cuts.deps), strict=True))
        shown = [scores[value] for value in self._dense.outputs]
        return error <= enough and any(shown) and all(self._same(x, shown) for x in chunks)

    def _same(self, chunk: Chunk, shown: Sequence[bool]) -> bool:
        """Whether both networks give the same answers, in those results that are scores."""
        with torch.no_grad():
            results = zip(self._dense.run(chunk), self._small.run(chunk), shown, strict=True)
            return all(torch.equal(a.argmax(-1), b.argmax(-1)) for a, b, score in results if score)


def _relative(found: torch.Tensor, wanted: torch.Tensor) -> torch.Tensor:
    """E|y' - y|² / Var y."""
    variance = wanted.var(unbiased=False) + OUTPUT_VARIANCE_FLOOR
    return F.mse_loss(found, wanted) / variance

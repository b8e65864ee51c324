"""polish: a short gradient descent on all weights at once, towards the original's outputs.

`compensate` refits one operation after another. What it leaves adds up after products of
activations, gates and recurrent states, which no linear regression sees. The descent uses the same
samples, without labels. Its loss is the relative squared error of the outputs and of what linear
operations read:

    loss = mean over all of these of |y' - y|² / Var y  +  mean over the outputs of the same

(knowledge distillation with all layers as targets; block reconstruction after quantisation does the
same: Li et al., BRECQ, ICLR 2021). Steps are `Muon`'s: of the same share of each weight's norm, and
the shorter the less there is to make up for.

A few samples can be overfitted. So refit and a shorter descent are first done without one part of
the samples in `PARTS`. Where this trial raises the error of the outputs on that part by more than
`TRIAL_WORSE`, the weights of the refit stay; otherwise the descent follows with all samples. With
`effort="auto"` no descent is begun where both networks give the same answers on that part and their
outputs hardly differ: little is left to gain.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace

import torch
import torch.nn.functional as F

from graphprune.compensation.compensate import Compensation, compensate
from graphprune.compensation.constants import (
    ERROR_NEGLIGIBLE,
    FINAL_TIME,
    PARTS,
    POLISH_RATE,
    POLISH_STEPS,
    POLISHED_LEAST,
    STEP_SAMPLES,
    TRIAL_STEPS,
    TRIAL_TIME,
    TRIAL_WORSE,
)
from graphprune.compensation.consumers import find_consumers
from graphprune.compensation.targets import Target, Targets, variance
from graphprune.core.allowance import UNLIMITED, Allowance
from graphprune.core.cuts import Cuts
from graphprune.core.graph import Value
from graphprune.core.groups import Dependencies
from graphprune.engine.muon import Muon
from graphprune.engine.tensors import as_dtype, cut_tensor
from graphprune.engine.trial import Trial
from graphprune.importance.freedom import Masks
from graphprune.statistics.answers import scored
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
    every = range(len(ours.chunks))
    if len(every) < PARTS or ours.size * len(every) < POLISHED_LEAST or samples.norms:
        return solved
    held = max(len(every) // PARTS, 1)
    seen, unseen = every[:-held], every[-held:]
    fitted = compensate(cuts, replace(ours, chunks=ours.chunks[:-held]), free)
    targets = Targets(cuts, ours, steps)
    trial = _Polisher(cuts, ours.size, fitted, targets)
    before = trial.off(unseen)
    if trial.settled(unseen, before, enough):
        return solved
    rate = POLISH_RATE * min(math.sqrt(before), 1.0)
    brief = trial_steps(steps)
    share = brief / (brief + steps)
    first = allowed.part(TRIAL_TIME)
    trial.run(seen, brief, rate, lambda done: advance(share * done), first)
    worse = not trial.off(unseen) < TRIAL_WORSE * before  # true for NaN, too
    if worse or allowed.spent >= 1:
        return solved
    return _Polisher(cuts, ours.size, solved, targets).run(
        every,
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
    """The smaller network, whose floating-point parameters are optimised.

    Args:
        cuts: The narrowed graph.
        size: Samples in a chunk.
        solved: The weights to start from, where they are not as cut.
        targets: What the original computes.
    """

    def __init__(self, cuts: Cuts, size: int, solved: Compensation, targets: Targets) -> None:
        self._cuts = cuts
        self._solved = solved
        self._targets = targets
        graph = cuts.deps.source
        weights = {value: self._start(value) for value in graph.weights.values()}
        self._free = {
            value: tensor
            for value, tensor in weights.items()
            if value.kind == "parameter" and tensor.is_floating_point()
        }
        self._small = Trial(cuts.deps, size, cuts.keep, weights)
        self._linear = find_consumers(cuts.deps).weights

    def _start(self, value: Value) -> torch.Tensor:
        """A weight to start from, as solved for or as cut, in float32."""
        tensor = self._solved.values.get(value)
        if tensor is None:
            tensor = cut_tensor(value.tensor.detach(), self._cuts.weights.get(value, ()))
        return as_dtype(tensor, torch.float32).clone()

    def run(
        self,
        chunks: Sequence[int],
        steps: int,
        rate: float,
        advance: Callable[[float], None],
        allowed: Allowance,
    ) -> Compensation:
        """Descend with a rate that falls to zero as a cosine.

        Args:
            chunks: Numbers of the chunks of samples; one a step, in turn.
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
            round_, at = divmod(done, len(chunks))
            with torch.enable_grad():
                torch.autograd.backward(self._loss(self._targets.at(chunks[at], round_)))
            optimizer.step()
            advance((done + 1) / steps)
        new = {
            value: tensor.detach().to(value.tensor.dtype)
            for value, tensor in self._free.items()
            if not torch.equal(tensor, start[value])
        }
        return Compensation({**self._solved.values, **new}, self._solved.left)

    def _loss(self, target: Target) -> torch.Tensor:
        """The loss of one chunk (see above)."""
        got = self._targets.seen(self._small, target.chunk)
        pairs = [(got.inside[value], wanted) for value, wanted in target.inside.items()]
        pairs += zip(got.ends, target.ends, strict=True)
        return torch.dot(torch.stack([F.mse_loss(*pair) for pair in pairs]), target.weights)

    def off(self, chunks: Sequence[int]) -> float:
        """The relative squared error of the outputs, summed over outputs, mean over chunks."""
        total = sum(
            float(F.mse_loss(found, wanted) / variance(wanted))
            for number in chunks
            for found, wanted in self._answers(number)
            if wanted.is_floating_point()
        )
        return total / len(chunks)

    def _answers(self, number: int) -> Iterator[tuple[torch.Tensor, torch.Tensor]]:
        """The outputs for a chunk, of the smaller network and of the original."""
        with torch.no_grad():
            found = self._small.run(self._targets.chunk(number))
        return zip(found, self._targets.answers(number), strict=True)

    def settled(self, chunks: Sequence[int], error: float, enough: float) -> bool:
        """Whether nothing is left to gain: outputs hardly differ, and all answers are the same.

        Args:
            chunks: Numbers of the chunks of samples.
            error: What `off` says of them.
            enough: The error that is small enough.
        """
        if error <= ERROR_NEGLIGIBLE:
            return True
        scores = dict(zip(self._cuts.deps.source.outputs, scored(self._cuts.deps), strict=True))
        shown = [scores[value] for value in self._targets.outputs]
        return error <= enough and any(shown) and all(self._same(n, shown) for n in chunks)

    def _same(self, number: int, shown: Sequence[bool]) -> bool:
        """Whether both networks give the same answers, in those results that are scores."""
        pairs = zip(self._answers(number), shown, strict=True)
        return all(torch.equal(a.argmax(-1), b.argmax(-1)) for (a, b), score in pairs if score)

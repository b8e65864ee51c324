"""perturb: sensitivities of linear operations without gradients, for ONNX graphs.

Every channel y of an operation's result becomes y ± s (y - E y), with a random sign for each
channel of each sample, and everything after it runs again. With s = `PERTURBATION`, the change of
the results is

    sensitivity = E[(change of result)²] / Var(result) / s²

This estimates `Sensitivity.whole`, for all channels together (simultaneous perturbation: Spall,
IEEE Trans. Automatic Control 37, 1992).
"""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping, Sequence

import torch

from graphprune.compensation.constants import PERTURBATION, PERTURBED_CALLS, PERTURBED_MACS
from graphprune.core.allowance import UNLIMITED, Allowance
from graphprune.core.graph import Op, Value
from graphprune.core.groups import Dependencies
from graphprune.engine.run import Chunk, Run, given_inputs, resized
from graphprune.rules.readings import output_channel
from graphprune.statistics.constants import VARIANCE_FLOOR
from graphprune.statistics.estimate import macs_of
from graphprune.statistics.order import Arranged
from graphprune.statistics.samples import Samples


def perturb(
    deps: Dependencies, samples: Samples, ops: Sequence[Op], allowed: Allowance = UNLIMITED
) -> dict[Op, float] | None:
    """Measure the sensitivity of the results to each operation.

    Args:
        deps: The analysis.
        samples: Inputs, each chunk for runs of its own, whose values must all fit into memory; and
            the weights to run with: `Samples.weight`, its statistics filled.
        ops: The linear operations.
        allowed: Time that the runs may take. A chunk whose runs would take longer, at the speed of
            the original's, is not begun.

    Returns:
        The relative squared error of the results per relative squared error of each operation's
        result; None where the runs would take too long.
    """
    # On average, half of the graph comes after an operation.
    runs = len(ops) / 2
    by_macs = runs * macs_of(deps) * samples.size / PERTURBED_MACS
    by_calls = runs * len(deps.source.ops) / PERTURBED_CALLS
    number = min(int(1 / max(by_macs, by_calls, VARIANCE_FLOOR)), len(samples.chunks))
    found: list[dict[Op, float]] = []
    for chunk in samples.chunks[:number]:
        perturbed = _Perturbed(deps, samples, chunk)
        if allowed is not UNLIMITED and runs * perturbed.seconds() > allowed.left:
            break
        found.append(perturbed.of(ops))
    return {op: sum(one[op] for one in found) / len(found) for op in ops} if found else None


class _Perturbed:
    """One chunk's values in the original, and runs in which one of them is changed."""

    def __init__(self, deps: Dependencies, samples: Samples, chunk: Chunk) -> None:
        self._graph = deps.source
        self._samples = samples
        self._deps, self._size = deps, samples.size
        self._attrs = resized(deps, {}, samples.size)
        self._number = {op: number for number, op in enumerate(self._graph.ops)}
        self._given = given_inputs(self._graph, chunk, torch.float32)
        self._known = dict(self._given)
        for op, run in self._run(self._given, self._graph.ops):
            self._known.update((value, run.values(value)[0]) for value in op.outputs)
        self._ends = [
            v
            for v in self._graph.outputs
            if v in self._known and self._known[v].is_floating_point()
        ]

    def seconds(self) -> float:
        """Seconds that a run of the whole graph takes: not the first one, which prepares much."""
        start = time.monotonic()
        for _ in self._run(self._given, self._graph.ops):
            pass
        return time.monotonic() - start

    def of(self, ops: Sequence[Op]) -> dict[Op, float]:
        """The sensitivity to each operation."""
        generator = torch.Generator().manual_seed(0)
        return {op: self._share(op, generator) for op in ops}

    def _share(self, op: Op, generator: torch.Generator) -> float:
        start = op.outputs[0]
        found = {start: self._changed(self._known[start], op, generator)}
        for later, run in self._run({**self._known, **found}, self._behind(op)):
            found.update((v, run.values(v)[0]) for v in later.outputs if v in self._ends)
        total = 0.0
        for value in self._ends:
            if value in found:
                was, now = self._known[value], found[value]
                spread = was.var(unbiased=False) + VARIANCE_FLOOR
                total += float((now - was).square().mean() / spread)
        return total / PERTURBATION**2

    def _changed(self, y: torch.Tensor, op: Op, generator: torch.Generator) -> torch.Tensor:
        """`y ± s (y - E y)`: E is over samples and positions, ± for each sample and channel."""
        seen = Arranged.of(self._deps, op.outputs[0], output_channel(op, y.dim()), self._size)
        samples = seen.by_sample(y if y.is_floating_point() else y.float())
        shape = len(samples), 1, samples.shape[-1]
        signs = torch.randint(2, shape, generator=generator).to(samples) * 2 - 1
        centred = samples - samples.flatten(0, 1).mean(0)
        changed = y + seen.restored(PERTURBATION * signs * centred, y.shape)
        if y.is_floating_point():
            return changed
        ends = torch.iinfo(y.dtype)  # integers change by whole steps
        return changed.round().clamp(ends.min, ends.max).to(y.dtype)

    def _behind(self, op: Op) -> list[Op]:
        """The operations that depend on an operation's first result."""
        reached = {op.outputs[0]}
        out = []
        for later in self._graph.ops[self._number[op] + 1 :]:
            if any(value in reached for value in later.inputs):
                reached.update(later.outputs)
                out.append(later)
        return out

    def _run(
        self, known: Mapping[Value, torch.Tensor], ops: Sequence[Op]
    ) -> Iterator[tuple[Op, Run]]:
        """Run some operations on known values; yields each after it has run, with the run."""
        weights, dtype = self._samples.weight, torch.float32
        run = Run(self._graph, weights, [known], self._attrs, dtype, ops=ops)
        return ((op, run) for op in run.steps())

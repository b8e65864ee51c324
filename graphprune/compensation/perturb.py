"""perturb: how much the results depend on each linear operation, where there are no gradients.

What an operation computes is changed a little, every channel by a share of what varies in it, up
or down at random; everything behind it runs again. By how much the results change, as a share of
their variance and for the share squared, is what `sense` finds by gradients for all channels of
the operation together (simultaneous perturbation: Spall, IEEE Trans. Automatic Control 37, 1992).
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence

import torch

from graphprune.core.graph import Op, Value
from graphprune.core.groups import Dependencies
from graphprune.engine.run import Chunk, Run, given_inputs, resized
from graphprune.rules.facts import output_channel
from graphprune.statistics.estimate import macs_of
from graphprune.statistics.samples import Samples

_SHARE = 0.1  # of what varies, by which a channel is changed
_WORK, _RUNS = 5e11, 50_000  # multiply-accumulates and operations that all runs together may take
_SMALL = 1e-12


def perturb(
    deps: Dependencies, samples: Samples, chunks: Sequence[Chunk], size: int, ops: Sequence[Op]
) -> dict[Op, float] | None:
    """Measure the dependence of the results.

    Args:
        deps: The analysis.
        samples: Tell the weights; batch norms have met them.
        chunks: Inputs of a run each, all values of which fit into memory.
        size: How many samples each holds.
        ops: Operations that are linear.

    Returns:
        For each operation the squared error of the results, as a share of their variance, by the
        squared error of what it computes, as a share of what varies in it; None where the runs
        would take too long.
    """
    behind = len(ops) / 2  # runs of the whole, as half of it lies behind an operation
    each = max(behind * macs_of(deps) * size / _WORK, behind * len(deps.source.ops) / _RUNS)
    number = min(int(1 / max(each, _SMALL)), len(chunks))
    found = [_Perturbed(deps, samples, chunk, size).of(ops) for chunk in chunks[:number]]
    return {op: sum(one[op] for one in found) / number for op in ops} if number else None


class _Perturbed:
    def __init__(self, deps: Dependencies, samples: Samples, chunk: Chunk, size: int) -> None:
        self._graph = deps.source
        self._samples = samples
        self._attrs = resized(deps, {}, size)
        self._number = {op: number for number, op in enumerate(self._graph.ops)}
        self._known = given_inputs(self._graph, chunk, torch.float32)
        for op, run in self._run(self._known, self._graph.ops):
            self._known.update((value, run.values(value)[0]) for value in op.outputs)
        self._ends = [
            v
            for v in self._graph.outputs
            if v in self._known and self._known[v].is_floating_point()
        ]

    def of(self, ops: Sequence[Op]) -> dict[Op, float]:
        """What each operation counts."""
        generator = torch.Generator().manual_seed(0)
        return {op: self._share(op, generator) for op in ops}

    def _share(self, op: Op, generator: torch.Generator) -> float:
        start = op.outputs[0]
        found = {start: _changed(self._known[start], op, generator)}
        for later, run in self._run({**self._known, **found}, self._behind(op)):
            found.update((v, run.values(v)[0]) for v in later.outputs if v in self._ends)
        total = 0.0
        for value in self._ends:
            if value in found:
                was, now = self._known[value], found[value]
                total += float((now - was).square().mean() / (was.var(unbiased=False) + _SMALL))
        return total / _SHARE**2

    def _behind(self, op: Op) -> list[Op]:
        """The operations that an operation's first result reaches."""
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
        """Some operations, each with the run once it has run."""
        weights, dtype = self._samples.weight, torch.float32
        run = Run(self._graph, weights, [known], self._attrs, dtype, ops=ops)
        return ((op, run) for op in run.steps())


def _changed(y: torch.Tensor, op: Op, generator: torch.Generator) -> torch.Tensor:
    """Every channel of every sample, up or down by a share of what varies in it."""
    channel = output_channel(op, y.dim())
    others = [dim for dim in range(y.dim()) if dim != channel]
    shape = [n if dim in (0, channel) else 1 for dim, n in enumerate(y.shape)]
    signs = torch.randint(2, shape, generator=generator).to(y) * 2 - 1
    return y + _SHARE * signs * (y - y.mean(others, keepdim=True))

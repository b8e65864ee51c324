"""perturb: how much the results depend on each linear operation, where there are no gradients.

What an operation computes is changed a little, every channel by a share of what varies in it, up
or down at random; everything behind it runs again. By how much the results change, as a share of
their variance and for the share squared, is what `sense` finds by gradients for all channels of
the operation together (simultaneous perturbation: Spall, IEEE Trans. Automatic Control 37, 1992).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch

from graphprune.core.graph import Op, Value
from graphprune.core.groups import Dependencies
from graphprune.engine.run import Chunk, resized
from graphprune.engine.tensors import as_dtype
from graphprune.frontends.torch.execute import evaluate
from graphprune.rules.facts import output_channel
from graphprune.statistics.made.sample import macs_of
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
        self._run = deps.source.run or evaluate
        self._samples = samples
        self._attrs = resized(deps, {}, size)
        self._number = {op: number for number, op in enumerate(self._graph.ops)}
        self._env: dict[Value, torch.Tensor] = {
            value: as_dtype(x, torch.float32)
            for value, x in zip(self._graph.inputs, chunk, strict=True)
        }
        for op in self._graph.ops:
            self._env.update(self._results(op, {}))
        self._ends = [
            v for v in self._graph.outputs if v in self._env and self._env[v].is_floating_point()
        ]

    def of(self, ops: Sequence[Op]) -> dict[Op, float]:
        """What each operation counts."""
        generator = torch.Generator().manual_seed(0)
        return {op: self._share(op, generator) for op in ops}

    def _share(self, op: Op, generator: torch.Generator) -> float:
        changed = {op.outputs[0]: _changed(self._env[op.outputs[0]], op, generator)}
        for later in self._graph.ops[self._number[op] + 1 :]:
            if any(value in changed for value in later.inputs):
                changed.update(self._results(later, changed))
        total = 0.0
        for value in self._ends:
            if value in changed:
                was, now = self._env[value], changed[value]
                total += float((now - was).square().mean() / (was.var(unbiased=False) + _SMALL))
        return total / _SHARE**2

    def _results(self, op: Op, changed: Mapping[Value, torch.Tensor]) -> dict[Value, torch.Tensor]:
        operands = [None if v is None else self._operand(v, changed) for v in op.inputs]
        found = self._run(op, operands, self._attrs.get(op, {}), torch.float32)
        return dict(zip(op.outputs, found, strict=True))

    def _operand(self, value: Value, changed: Mapping[Value, torch.Tensor]) -> torch.Tensor | None:
        if not value.is_weight:
            return changed[value] if value in changed else self._env[value]
        if value.tensor is None:
            return None
        return as_dtype(self._samples.weight(value), torch.float32)


def _changed(y: torch.Tensor, op: Op, generator: torch.Generator) -> torch.Tensor:
    """Every channel of every sample, up or down by a share of what varies in it."""
    channel = output_channel(op, y.dim())
    others = [dim for dim in range(y.dim()) if dim != channel]
    shape = [n if dim in (0, channel) else 1 for dim, n in enumerate(y.shape)]
    signs = torch.randint(2, shape, generator=generator).to(y) * 2 - 1
    return y + _SHARE * signs * (y - y.mean(others, keepdim=True))

"""Samples: the inputs that statistics are taken from, in chunks."""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from math import prod
from pathlib import Path

import torch

from graphprune.core.graph import Op, Value
from graphprune.core.groups import Dependencies
from graphprune.engine.run import (
    Attrs,
    Chunk,
    LastUses,
    Run,
    batch_axis,
    chunked,
    final_values,
    given_inputs,
    resized,
    sampled,
)

_MEMORY = 1 << 31, 6 << 30  # least and most bytes that the values of both graphs may take at once
_SHARE = 4  # part of the machine's memory that they may take in between
_CONTAINER = Path("/sys/fs/cgroup/memory.max")  # "max", or bytes (Linux, cgroup v2)
_POSIX = hasattr(os, "sysconf")
_CHUNK = 1 << 26  # bytes of one chunk's values
_FEW = 8  # runs take less time than to find out whether the graph runs on more at once


@dataclass
class Samples:
    """Inputs for statistics.

    Attributes:
        chunks: Tensors for the graph's inputs, for each chunk.
        size: Samples in each chunk.
        source: Where they come from, for the report.
        norms: Batch norms that should meet the samples with the samples' own statistics, by the
            value that they normalise: where the samples are not of the kind that the stored
            statistics were taken from.
        statistics: Those statistics, as far as the samples have passed through the original.
        worth: What a sample tells, as a share of one of the kind that the model was trained on.
        expected: Correlations of what consumers read, in closed form, once they are needed: by
            value and the dimension of its channels.
    """

    chunks: list[Chunk]
    size: int
    source: str
    norms: dict[Value, list[Op]] = field(default_factory=dict)
    statistics: dict[Value, torch.Tensor] = field(default_factory=dict)
    worth: float = 1.0
    expected: dict[tuple[Value, int], torch.Tensor] | None = None

    def weight(self, value: Value) -> torch.Tensor:
        """A weight of the original as the samples should meet it."""
        found = self.statistics.get(value)
        return value.tensor.detach() if found is None else found

    def meet(self, values: Iterable[Value | None], run: Run) -> None:
        """Take the statistics of batch norms that normalise any of these values.

        Args:
            values: What was just computed.
            run: A run of the original that holds them.
        """
        for value in values:
            if value is None or value not in self.norms:
                continue
            found: tuple[torch.Tensor, torch.Tensor] | None = None
            for norm in self.norms[value]:
                mean, variance = norm.inputs[3:5]
                if mean is None or variance is None or mean in self.statistics:
                    continue
                found = found or _spread(run.values(value))
                self.statistics[mean] = found[0].to(mean.tensor.dtype)
                self.statistics[variance] = found[1].to(variance.tensor.dtype)

    @property
    def number(self) -> int:
        """How many samples there are."""
        return self.size * len(self.chunks)


def walk(
    deps: Dependencies, samples: Samples, dtype: torch.dtype = torch.float32
) -> Iterator[tuple[Op, Run]]:
    """Run the original over the samples.

    Args:
        deps: The analysis.
        samples: The samples; batch norms take their statistics on the way.
        dtype: Floating-point type to compute in.

    Yields:
        Every operation once it has run, and the run, which has not freed its operands yet.
    """
    graph, attrs = deps.source, resized(deps, {}, samples.size)
    given = [given_inputs(graph, chunk, dtype) for chunk in samples.chunks]
    run = Run(graph, samples.weight, given, attrs, dtype)
    samples.meet(graph.inputs, run)
    for op in run.steps():
        samples.meet(op.outputs, run)
        yield op, run


def _spread(chunks: Sequence[torch.Tensor]) -> tuple[torch.Tensor, torch.Tensor]:
    """Mean and variance of every channel over chunks of equal size."""
    dims = [dim for dim in range(chunks[0].dim()) if dim != 1]
    pairs = [torch.var_mean(x, dims, correction=0) for x in chunks]
    means = torch.stack([mean for _, mean in pairs]).double()
    inside = torch.stack([variance for variance, _ in pairs]).double().mean(0)
    return means.mean(0), inside + means.var(0, correction=0)


def captured(deps: Dependencies) -> int:
    """Samples in the inputs that the graph was captured with."""
    axis = batch_axis(deps)
    return axis.size if axis is not None else 1


def live_bytes(deps: Dependencies) -> float:
    """Most bytes that the values of one sample take at any time, in float32."""
    graph = deps.source
    uses = LastUses(graph.ops)
    held, most = 0.0, 0.0
    for op in graph.ops:
        held += sum(4 * prod(value.shape) for value in op.outputs)
        most = max(most, held)
        held -= sum(4 * prod(v.shape) for v in uses.after(op) if v.kind == "result")
    return most / captured(deps)


def affordable(deps: Dependencies, wanted: int) -> int:
    """How many samples fit into memory, at most `wanted` and at least what was captured."""
    batch = captured(deps)
    tensors = (value.tensor for value in deps.source.weights.values())
    devices = {tensor.device for tensor in tensors if tensor is not None}
    granted = min(map(_granted, devices), default=_MEMORY[0])
    most = int(granted / max(2 * live_bytes(deps), 1.0))
    return max(min(wanted, most) // batch, 1) * batch


def _granted(device: torch.device) -> int:
    """Bytes that values may take: a part of what the device, or the container, has."""
    least, most = _MEMORY
    return max(min(min(_memory(device), default=0) // _SHARE, most), least)


def _memory(device: torch.device) -> list[int]:
    """Bytes of memory, as far as they are told."""
    if device.type == "cuda":
        return [int(torch.cuda.get_device_properties(device).total_memory)]
    found = [os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")] if _POSIX else []
    if _CONTAINER.exists():
        limit = _CONTAINER.read_text(encoding="ascii").strip()
        found += [int(limit)] if limit.isdecimal() else []
    return found


def split(deps: Dependencies, tensors: Sequence[torch.Tensor], source: str) -> Samples:
    """Samples in chunks of a size at which the captured graph runs.

    Args:
        deps: The analysis.
        tensors: One for each input of the graph, samples first.
        source: Where they come from.
    """
    batch, which = captured(deps), sampled(deps)
    if not any(which):
        return Samples([tuple(tensors)], batch, source)
    number = len(tensors[which.index(True)])
    most = max(int(_CHUNK / max(live_bytes(deps), 1.0)), 1)
    size = next(size for size in range(min(most, number), 0, -1) if number % size == 0)
    if number <= _FEW * batch:
        size = batch  # which needs no trial
    elif size != batch and not _runs(deps, next(iter(chunked(tensors, size, which))), size):
        size = batch
    return Samples(list(chunked(tensors, size, which)), size, source)


def recut(deps: Dependencies, samples: Samples, size: int) -> Iterator[Chunk]:
    """The samples, so many at a time."""
    if size == samples.size:
        return iter(samples.chunks)
    which = sampled(deps)
    return (part for chunk in samples.chunks for part in chunked(chunk, size, which))


def _runs(deps: Dependencies, chunk: Chunk, size: int) -> bool:
    """Whether the captured graph runs on another number of samples, with the same results."""
    batch = captured(deps)
    first = next(iter(chunked(chunk, batch, sampled(deps))), None)
    if first is None:
        return False
    try:
        wanted, found = (
            results(deps, x, resized(deps, {}, each)) for x, each in ((first, batch), (chunk, size))
        )
    except (RuntimeError, IndexError):
        return False
    for value, a in wanted.items():
        b = found[value]
        if a.shape[:1] == (batch,) and b.shape[:1] == (size,):
            b = b[:batch]
        if a.shape == b.shape and not torch.allclose(a, b, rtol=1e-2, atol=1e-3, equal_nan=True):
            return False
    return True


def results(deps: Dependencies, chunk: Chunk, attrs: Attrs) -> dict[Value, torch.Tensor]:
    """What the original's graph returns, in float32.

    Args:
        deps: The analysis.
        chunk: Tensors for the graph's inputs.
        attrs: Attributes for as many samples.
    """
    graph = deps.source
    given = given_inputs(graph, chunk, torch.float32)
    return final_values(graph, lambda value: value.tensor.detach(), given, attrs, torch.float32)

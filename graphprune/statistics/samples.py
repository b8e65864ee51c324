"""Samples: the inputs that statistics are taken from, in chunks that fit into memory."""

from __future__ import annotations

import os
from collections.abc import Collection, Iterable, Iterator, Sequence
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
from graphprune.statistics.constants import (
    CHUNK_BYTES,
    MEMORY_LEAST,
    MEMORY_MOST,
    MEMORY_PART,
    SAME_ABSOLUTE,
    SAME_RELATIVE,
    UNTRIED_RUNS,
)

_CONTAINER = Path("/sys/fs/cgroup/memory.max")  # "max", or bytes (Linux, cgroup v2)
_POSIX = hasattr(os, "sysconf")


@dataclass
class Samples:
    """Inputs for statistics.

    Attributes:
        chunks: Tensors for the graph's inputs, for each chunk.
        size: Number of samples in each chunk.
        origin: Where they come from, for the report: "256 inputs from data".
        norms: Batch norms that use the samples' own mean and variance in place of the stored ones,
            by the value that they normalise. For samples unlike the training data: painted
            pictures, noise.
        statistics: Those means and variances, by the buffer that they stand in for; filled while
            the samples pass through the original.
        worth: What one sample tells, as a share of a sample of the training data: between 0 and 1.
        expected: Correlations in closed form of what linear operations read, by value and the
            dimension of its channels; None until they are computed.
    """

    chunks: list[Chunk]
    size: int
    origin: str
    norms: dict[Value, list[Op]] = field(default_factory=dict)
    statistics: dict[Value, torch.Tensor] = field(default_factory=dict)
    worth: float = 1.0
    expected: dict[tuple[Value, int], torch.Tensor] | None = None

    def weight(self, value: Value) -> torch.Tensor:
        """A weight of the original; of `norms`, the samples' own statistics once they are known."""
        found = self.statistics.get(value)
        return value.tensor.detach() if found is None else found

    def meet(self, values: Iterable[Value | None], run: Run) -> None:
        """Compute the statistics of the batch norms that normalise any of these values.

        Args:
            values: Values that were just computed.
            run: The run of the original that holds their tensors.
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
    deps: Dependencies,
    samples: Samples,
    dtype: torch.dtype = torch.float32,
    held: Collection[Value] = (),
) -> Iterator[tuple[Op, Run]]:
    """Run the original graph over the samples, all chunks in step.

    Args:
        deps: The analysis.
        samples: The samples; their `statistics` are filled on the way.
        dtype: Floating-point type to compute in.
        held: Values that are wanted to the end.

    Yields:
        Each operation after it has run, with the run, which still holds its operands.
    """
    graph, attrs = deps.source, resized(deps, {}, samples.size)
    given = [given_inputs(graph, chunk, dtype) for chunk in samples.chunks]
    run = Run(graph, samples.weight, given, attrs, dtype, uses=LastUses(graph.ops, held))
    samples.meet(graph.inputs, run)
    for op in run.steps():
        samples.meet(op.outputs, run)
        yield op, run


def _spread(chunks: Sequence[torch.Tensor]) -> tuple[torch.Tensor, torch.Tensor]:
    """Mean and variance of every channel, dimension 1, over chunks of equal size."""
    pairs = [_moments(x.reshape(*x.shape[:2], -1)) for x in chunks]
    means = torch.stack([mean for mean, _ in pairs]).double()
    inside = torch.stack([variance for _, variance in pairs]).double().mean(0)
    return means.mean(0), inside + means.var(0, correction=0)


def _moments(x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Mean and variance of every channel of `n x channels x positions`.

    In a sixth of the time that `torch.var_mean` takes over two dimensions.
    """
    number = max(len(x) * x.shape[2], 1)
    mean = x.sum(2).sum(0) / number
    distance = torch.linalg.vector_norm(x - mean[:, None], dim=2)
    return mean, distance.square().sum(0) / number


def captured(deps: Dependencies) -> int:
    """The batch size that the graph was captured with."""
    axis = batch_axis(deps)
    return axis.size if axis is not None else 1


def live_bytes(deps: Dependencies) -> float:
    """Peak bytes of one sample's values in a run, in float32."""
    graph = deps.source
    uses = LastUses(graph.ops)
    held, most = 0.0, 0.0
    for op in graph.ops:
        held += sum(4 * prod(value.shape) for value in op.outputs)
        most = max(most, held)
        held -= sum(4 * prod(v.shape) for v in uses.after(op) if v.kind == "result")
    return most / captured(deps)


def affordable(deps: Dependencies, wanted: int) -> int:
    """How many samples fit into memory: a multiple of the captured batch size.

    Args:
        deps: The analysis.
        wanted: The most that are needed.
    """
    batch = captured(deps)
    weights = deps.source.weights.values()
    devices = {value.tensor.device for value in weights if value.is_readable}
    granted = min(map(_granted, devices), default=MEMORY_LEAST)
    most = int(granted / max(2 * live_bytes(deps), 1.0))
    return max(min(wanted, most) // batch, 1) * batch


def _granted(device: torch.device) -> int:
    """Bytes that values may take: a part of what the device, or the container, has."""
    part = min(_memory(device), default=0) // MEMORY_PART
    return max(min(part, MEMORY_MOST), MEMORY_LEAST)


def _memory(device: torch.device) -> list[int]:
    """Bytes of memory of the machine, and of the container where it has a limit."""
    if device.type == "cuda":
        return [int(torch.cuda.get_device_properties(device).total_memory)]
    found = [os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")] if _POSIX else []
    if _CONTAINER.exists():
        limit = _CONTAINER.read_text(encoding="ascii").strip()
        found += [int(limit)] if limit.isdecimal() else []
    return found


def split(deps: Dependencies, tensors: Sequence[torch.Tensor], origin: str) -> Samples:
    """Cut inputs into chunks of equal size, at which the captured graph runs.

    The largest size that fits `CHUNK_BYTES` is tried on one chunk; where it fails, or gives other
    results, chunks have the captured batch size.

    Args:
        deps: The analysis.
        tensors: One for each input of the graph, samples first.
        origin: Where they come from, for the report.
    """
    batch, which = captured(deps), sampled(deps)
    if not any(which):
        return Samples([tuple(tensors)], batch, origin)
    number = len(tensors[which.index(True)])
    most = max(int(CHUNK_BYTES / max(live_bytes(deps), 1.0)), 1)
    size = next(size for size in range(min(most, number), 0, -1) if number % size == 0)
    if number <= UNTRIED_RUNS * batch:
        size = batch  # this size needs no trial
    elif size != batch and not _runs(deps, next(iter(chunked(tensors, size, which))), size):
        size = batch
    return Samples(list(chunked(tensors, size, which)), size, origin)


def recut(deps: Dependencies, samples: Samples, size: int) -> Iterator[Chunk]:
    """The samples in chunks of another size."""
    if size == samples.size:
        return iter(samples.chunks)
    which = sampled(deps)
    return (part for chunk in samples.chunks for part in chunked(chunk, size, which))


def _runs(deps: Dependencies, chunk: Chunk, size: int) -> bool:
    """Whether the captured graph gives the same results at another batch size."""
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
        if a.shape == b.shape and not torch.allclose(
            a, b, rtol=SAME_RELATIVE, atol=SAME_ABSOLUTE, equal_nan=True
        ):
            return False
    return True


def results(deps: Dependencies, chunk: Chunk, attrs: Attrs) -> dict[Value, torch.Tensor]:
    """The results of the original graph on one chunk, in float32.

    Args:
        deps: The analysis.
        chunk: Tensors for the graph's inputs.
        attrs: Shape attributes for this batch size.
    """
    graph = deps.source
    given = given_inputs(graph, chunk, torch.float32)
    return final_values(graph, lambda value: value.tensor.detach(), given, attrs, torch.float32)

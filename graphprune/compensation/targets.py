"""targets: what the original network computes for the samples of a descent.

A descent passes over the same samples many times, augmented in another way each time. After some
passes the same ways come again, each `REUSED` times in all, so that the original runs once for each
of them. What is kept of it is small: of the values that linear operations read, the channels that
stay.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch

from graphprune.compensation.constants import (
    OUTPUT_VARIANCE_FLOOR,
    REUSED,
    ROUNDS_LEAST,
    TARGET_BYTES,
)
from graphprune.compensation.consumers import find_consumers
from graphprune.core.cuts import Cuts
from graphprune.core.graph import Op, Value
from graphprune.engine.run import Chunk, sampled
from graphprune.engine.tensors import cut_tensor
from graphprune.engine.trial import Trial
from graphprune.statistics.made.augment import augmented
from graphprune.statistics.samples import Samples


@dataclass(frozen=True)
class Seen:
    """What a run computed: what linear operations read, and the floating-point outputs."""

    inside: Mapping[Value, torch.Tensor]
    ends: Sequence[torch.Tensor]


@dataclass(frozen=True)
class Target:
    """Inputs, and what the original computes of them.

    Attributes:
        chunk: The inputs.
        inside: What stays of the values that linear operations read.
        ends: The floating-point outputs.
        weights: For each of both, in this order, what its squared error counts in the loss.
    """

    chunk: Chunk
    inside: Mapping[Value, torch.Tensor]
    ends: Sequence[torch.Tensor]
    weights: torch.Tensor


def variance(x: torch.Tensor) -> torch.Tensor:
    """What squared errors are divided by."""
    return x.var(unbiased=False) + OUTPUT_VARIANCE_FLOOR


class Targets:
    """What the original computes for chunks of samples.

    Args:
        cuts: The narrowed graph.
        samples: The samples, in chunks of one size.
        steps: Steps of the descent, of one chunk each.
    """

    def __init__(self, cuts: Cuts, samples: Samples, steps: int) -> None:
        self._cuts = cuts
        self._sampled = sampled(cuts.deps)
        self._chunks = samples.chunks
        self._dense = Trial(cuts.deps, samples.size)
        self.outputs = self._dense.outputs
        found = find_consumers(cuts.deps)
        self._read = {c.value for several in found.by_op.values() for c in several}
        self._kept: dict[Value, list[torch.Tensor | None]] = {}
        self._held: dict[tuple[int, int], Target] = {}
        self._answers: dict[int, list[torch.Tensor]] = {}
        self._rounds: int | None = None
        self._wanted = max(math.ceil(steps / (REUSED * len(samples.chunks))), ROUNDS_LEAST)

    def at(self, number: int, round_: int) -> Target:
        """Of a chunk, augmented in the way of one pass over all chunks.

        Args:
            number: Of the chunk.
            round_: Number of the pass, from 0.
        """
        rounds = self._rounds
        key = number, round_ % rounds if rounds else round_
        if key in self._held:
            return self._held[key]
        target = self._made(*key)
        if rounds is None:
            each = max(sum(x.nbytes for x in [*target.inside.values(), *target.ends]), 1)
            most = min(self._wanted, TARGET_BYTES // (each * len(self._chunks)))
            self._rounds = most if most >= ROUNDS_LEAST else 0
        if self._rounds:
            self._held[key] = target
        return target

    def answers(self, number: int) -> list[torch.Tensor]:
        """The outputs for a chunk as it is."""
        if number not in self._answers:
            with torch.no_grad():
                self._answers[number] = self._dense.run(self._chunks[number])
        return self._answers[number]

    def chunk(self, number: int) -> Chunk:
        """A chunk as it is."""
        return self._chunks[number]

    def _made(self, number: int, round_: int) -> Target:
        seed = round_ * len(self._chunks) + number
        chunk = augmented(self._chunks[number], self._sampled, round_, seed)
        with torch.no_grad():
            seen = self.seen(self._dense, chunk)
            inside = {value: self._cut(value, x) for value, x in seen.inside.items()}
            several = [*inside.values(), *seen.ends]
            spread = torch.stack([variance(x) for x in several])
            share = torch.full_like(spread, 1 / len(several))
            share[len(inside) :] += 1 / max(len(seen.ends), 1)
            return Target(chunk, inside, seen.ends, share / spread)

    def seen(self, trial: Trial, chunk: Chunk) -> Seen:
        """The values that linear operations read in a run, and its floating-point outputs."""
        read: dict[Value, torch.Tensor] = {}

        def watch(op: Op, operands: list[torch.Tensor | None]) -> None:
            for value, operand in zip(op.inputs, operands, strict=True):
                if value in self._read and value is not None and value.kind == "result":
                    assert operand is not None
                    read[value] = operand

        outputs = trial.run(chunk, watch)
        return Seen(read, [x for x in outputs if x.is_floating_point()])

    def _cut(self, value: Value, x: torch.Tensor) -> torch.Tensor:
        """What stays of a value of the original."""
        if value not in self._kept:
            self._kept[value] = [
                None if kept is None else torch.as_tensor(kept, device=x.device)
                for kept in self._cuts.kept(value)
            ]
        return cut_tensor(x, self._kept[value])

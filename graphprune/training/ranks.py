"""Where `recover` trains: in this process alone, or on the devices and ranks of `accelerate`."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Any, TypeVar

import torch
from torch import nn

from graphprune.core.errors import GraphPruneError, OptionError

T = TypeVar("T", bound=torch.optim.Optimizer)
B = TypeVar("B")


class Ranks:
    """The processes that share a training.

    Every rank reads the same data in the same order, and takes each so many-th batch of it.

    Args:
        accelerator: An `accelerate.Accelerator`; None: this process alone.

    Raises:
        OptionError: It is none.
    """

    def __init__(self, accelerator: Any = None) -> None:
        known = ("prepare", "backward", "reduce", "unwrap_model", "num_processes", "device")
        if accelerator is not None and not all(hasattr(accelerator, name) for name in known):
            raise OptionError(
                f"accelerator is an accelerate.Accelerator, not {accelerator!r}: "
                "pip install 'graphprune[accelerate]'"
            )
        self._held = accelerator
        self.number: int = 1 if accelerator is None else accelerator.num_processes

    @property
    def device(self) -> torch.device | None:
        """Where this rank trains; None: where the model is."""
        return None if self._held is None else self._held.device

    def prepared(self, model: nn.Module, optimizer: T) -> tuple[nn.Module, T]:
        """A model and its optimizer, ready to train on all ranks."""
        if self._held is None:
            return model, optimizer
        wrapped, own = self._held.prepare(model, optimizer)
        return wrapped, own

    def release(self, model: nn.Module) -> None:
        """Take off what `prepared` put around a model's `forward`."""
        if self._held is not None:
            self._held.unwrap_model(model, keep_fp32_wrapper=False)

    def part(self, batches: Iterable[B]) -> Iterator[B]:
        """What this rank trains on: as many batches on every rank, if all have the same.

        Raises:
            GraphPruneError: There are fewer batches than ranks.
        """
        if self.number == 1:
            yield from batches
            return
        held: list[B] = []
        rounds = 0
        for batch in batches:
            held.append(batch)
            if len(held) == self.number:
                yield held[self._held.process_index]
                held, rounds = [], rounds + 1
        if not rounds:
            raise GraphPruneError(
                f"{len(held)} batches are too few for {self.number} ranks: pass a smaller "
                "batch_size="
            )

    def together(self, batches: Iterator[B]) -> Iterator[B]:
        """Batches until one of the ranks has no more: all stop alike, so that none waits."""
        while True:
            batch = next(batches, None)
            if self.mean(float(batch is not None)) < 1 or batch is None:
                return
            yield batch

    def backward(self, loss: torch.Tensor) -> None:
        """Gradients of a loss."""
        if self._held is None:
            loss.backward()  # type: ignore[no-untyped-call]
        else:
            self._held.backward(loss)

    def mean(self, value: float) -> float:
        """The mean of what all ranks have: the same for all, so that they decide alike."""
        if self.number == 1:
            return value
        held = torch.tensor(float(value), device=self.device)
        return float(self._held.reduce(held, reduction="mean"))

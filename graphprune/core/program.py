"""What a frontend owes: a captured model."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Protocol, TypeAlias

import torch

from graphprune.core.batch import Batch

Inputs: TypeAlias = "tuple[tuple[Any, ...], dict[str, Any]]"


class Program(Protocol):
    """A lifted model, of either frontend."""

    @property
    def original(self) -> Any:
        """What the model was captured of, where it is but a part of it."""

    @property
    def given(self) -> Any:
        """Example inputs of that, positional and by name."""

    @property
    def inputs(self) -> Any:
        """Example inputs, positional and by name."""

    def flat_inputs(self) -> list[torch.Tensor]:
        """Example inputs, in the order of the graph's."""

    def replayed(self, batches: Sequence[Batch]) -> Sequence[Batch]:
        """Data as the graph takes it, where parts of the model were captured."""

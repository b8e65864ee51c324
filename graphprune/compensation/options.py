"""Options: how much is done so that what stays makes up for what goes, and with which data."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from typing import Any

from graphprune.compensation.constants import SAMPLES_BY_EFFORT
from graphprune.core.batch import Batch
from graphprune.core.errors import GraphPruneError

EFFORTS = ("auto", "fast", "balanced", "best")


@dataclass(frozen=True)
class Options:
    """What the caller asks for.

    Attributes:
        compensate: True, False, or "auto": yes, unless the model looks untrained or unknown to us.
        effort: "fast", "balanced", "best", or "auto": as "balanced", less where the estimated time
            is long. Or a number of seconds that compensation may take.
        data: Batches to take statistics from; None: inputs are made.
        seed: For inputs that are made.

    Raises:
        GraphPruneError: An option has another value.
    """

    compensate: bool | str = "auto"
    effort: str | float = "auto"
    data: Iterable[Any] | None = None
    seed: int = 0

    def __post_init__(self) -> None:
        if self.compensate not in (True, False, "auto"):
            raise GraphPruneError(f"compensate is True, False or 'auto', not {self.compensate!r}")
        if not (self.effort in EFFORTS if isinstance(self.effort, str) else self.granted):
            raise GraphPruneError(
                f"no effort {self.effort!r}: choose from {', '.join(EFFORTS)}, or name a number of "
                "seconds above zero"
            )

    @property
    def granted(self) -> float | None:
        """Seconds of wall time that compensation may take; None where `effort` is a name."""
        if isinstance(self.effort, bool) or not isinstance(self.effort, int | float):
            return None
        return float(self.effort) if 0 < self.effort < float("inf") else None

    @property
    def manner(self) -> str:
        """The effort by name; "auto" for a number of seconds."""
        return self.effort if isinstance(self.effort, str) else "auto"

    def samples(self) -> int:
        """The number of samples to read, or to make."""
        return SAMPLES_BY_EFFORT.get(self.manner, SAMPLES_BY_EFFORT["balanced"])

    def reading(self, batches: Sequence[Batch]) -> Options:
        """These options with batches as data."""
        return replace(self, data=[batch.kwargs or batch.args for batch in batches])

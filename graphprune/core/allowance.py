"""Allowance: seconds that some work may take, by the clock."""

from __future__ import annotations

import time
from dataclasses import dataclass, field


@dataclass(frozen=True)
class Allowance:
    """Seconds that are granted from now on; infinity where time is no matter.

    Attributes:
        seconds: How many.
    """

    seconds: float = float("inf")
    _start: float = field(default_factory=time.monotonic)

    @property
    def left(self) -> float:
        """Seconds that are left, at least zero."""
        return max(self._start + self.seconds - time.monotonic(), 0.0)

    @property
    def spent(self) -> float:
        """The share that is spent, from zero to one."""
        if self.seconds == float("inf"):
            return 0.0
        return 1.0 - self.left / self.seconds if self.seconds > 0 else 1.0

    def part(self, share: float) -> Allowance:
        """A part of what is left, from now on."""
        return Allowance(share * self.left)


UNLIMITED = Allowance()
"""Where time is no matter."""

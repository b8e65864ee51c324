"""How the removed fraction grows while a network trains."""

from __future__ import annotations

from dataclasses import dataclass

from graphprune.core.errors import OptionError, nearest
from graphprune.iterative import SCHEDULES


@dataclass(frozen=True)
class Schedule:
    """The fraction to remove at each optimizer step.

    `polynomial` is the cubic of Zhu & Gupta (To Prune, or Not to Prune, 2017):
    s(t) = final + (initial - final)·(1 - (t - begin)/(end - begin))³.

    Attributes:
        initial: Removed at step `begin`.
        final: Removed from step `end` on.
        begin: The first step at which something goes.
        end: The last one.
        every: Steps between two removals.
        curve: A name in `graphprune.iterative.SCHEDULES`: `"polynomial"`, `"linear"` or
            `"exponential"`.

    Raises:
        OptionError: A value is none that could be meant.

    Examples:
        >>> Schedule(initial=0.3, final=0.8, begin=100, end=1000, every=100).at(100)
        0.3
        >>> Schedule(final=0.8, end=1000).at(5000)
        0.8
    """

    initial: float = 0.0
    final: float = 0.5
    begin: int = 0
    end: int = 1000
    every: int = 100
    curve: str = "polynomial"

    def __post_init__(self) -> None:
        for name in ("initial", "final"):
            value = getattr(self, name)
            if isinstance(value, bool) or not isinstance(value, int | float) or not 0 <= value < 1:
                raise OptionError(f"{name} is a fraction, 0 <= {name} < 1, not {value!r}")
        if self.initial > self.final:
            raise OptionError(f"initial {self.initial:g} is above final {self.final:g}")
        for name in ("begin", "end", "every"):
            value = getattr(self, name)
            if isinstance(value, bool) or not isinstance(value, int) or value < (name == "every"):
                raise OptionError(f"{name} is a number of optimizer steps, not {value!r}")
        if self.end < self.begin:
            raise OptionError(f"end {self.end} comes before begin {self.begin}")
        if not isinstance(self.curve, str) or self.curve not in SCHEDULES:
            raise OptionError(f"no curve {self.curve!r}: {nearest(self.curve, SCHEDULES)}")

    def at(self, step: int) -> float:
        """The fraction that is gone after a step; 0 before `begin`."""
        if step < self.begin:
            return 0.0
        if step == self.begin and self.end > self.begin:
            return self.initial
        if step >= self.end:
            return self.final
        share = (step - self.begin) / (self.end - self.begin)
        return SCHEDULES[self.curve](self.initial, self.final, share)

    def due(self, step: int) -> bool:
        """Whether something goes at a step: every so often from `begin` on, and at `end`."""
        if not self.begin <= step <= self.end:
            return False
        return (step - self.begin) % self.every == 0 or step == self.end

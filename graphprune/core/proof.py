"""What was proven of a smaller model."""

from __future__ import annotations

from dataclasses import dataclass, field


@dataclass
class Verification:
    """The outcome of the check.

    Attributes:
        exact: Whether every operation was run and none mixes a removed axis, so that removal
            equals masking for the whole model as it stands.
        difference: Largest difference between the two, relative to the largest value of the
            result in question.
        mixing: Names of the operations whose statistics change with the removal.
        granted: Operations that nothing here runs: their results were taken for granted.
        lowered: Largest relative difference between the returned model and the rewritten
            graph; None before lowering.
    """

    exact: bool = True
    difference: float = 0.0
    mixing: list[str] = field(default_factory=list)
    granted: list[str] = field(default_factory=list)
    lowered: float | None = None

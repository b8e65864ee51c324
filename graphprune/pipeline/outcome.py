"""What a pass did."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Outcome:
    """What a pass did.

    Attributes:
        changed: Whether it changed the plan or the model.
        note: What it did, in a few words.
    """

    changed: bool
    note: str = ""


@dataclass(frozen=True)
class PassRow:
    """A pass in the report: its name, whether it changed anything, what it did, its seconds."""

    name: str
    changed: bool
    note: str
    seconds: float

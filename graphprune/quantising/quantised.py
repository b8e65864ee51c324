"""A quantised model, and what is known of it."""

from __future__ import annotations

from dataclasses import dataclass, fields
from typing import Any

SCHEMA = 1
"""The version of a result as data: it grows where a field is renamed or goes."""


@dataclass
class Quantised:
    """A quantised model, and what is known of it.

    Attributes:
        model: A `ModelProto`, or a `torch.fx.GraphModule`.
        bytes: Bytes of the model before and after.
        kept: Share of the outputs' variation that is kept on inputs that calibration did not see
            (`graphprune.core.agreement.Agreement`); None where it could not be measured.
        same: Share of equal answers there; None where outputs are no scores.
        inputs: How many inputs those were.
        source: Where the calibration inputs came from.
        note: How it was quantised, in words.
    """

    model: Any
    bytes: tuple[int, int]
    kept: float | None
    same: float | None
    inputs: int
    source: str
    note: str

    def as_dict(self) -> dict[str, Any]:
        """What is known, without the model, as plain data ready for JSON."""
        held = {each.name: getattr(self, each.name) for each in fields(self)}
        return {"schema": SCHEMA, **{k: v for k, v in held.items() if k != "model"}}

    def __str__(self) -> str:
        before, after = self.bytes
        lines = [
            f"int8: {before:,} -> {after:,} bytes ({before / after:.2f}x smaller), {self.note}"
        ]
        if self.kept is not None:
            line = f"outputs keep {self.kept:.1%} of their variation"
            line += "" if self.same is None else f", the same answer for {self.same:.1%}"
            lines.append(f"{line}, on {self.inputs} inputs that calibration did not see")
        lines.append(f"calibrated on {self.source}")
        return "\n".join(lines)

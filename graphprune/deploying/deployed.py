"""What a deployment made: its stages, as measured."""

from __future__ import annotations

from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from graphprune.core.agreement import POOR
from graphprune.report.text import digits, percent

STEEP, STEEPEST = 10.0, 20.0
"""Compression from which on a word of warning is due, and from which on the reason is told."""

SCHEMA = 1
"""The version of a deployment as data: it grows where a field is renamed or goes."""


@dataclass
class Stage:
    """A stage of a deployment, as measured in ONNX Runtime on the same inputs as all others.

    Attributes:
        name: `"original"`, `"shrink"`, `"recover"` or `"int8"`.
        parameters: Numbers in its initializers.
        bytes: Of its ONNX file.
        zipped: Of that file, compressed by gzip.
        kept: Share of the original's outputs' variation that is kept; see `Agreement`.
        same: Share of equal answers; None where outputs are no scores.
        metric: What the caller's metric gives; None without one.
        seconds: Of one run; None where it was not measured.
        took: Seconds that the stage's own work took.
    """

    name: str
    parameters: int
    bytes: int
    zipped: int
    kept: float | None = None
    same: float | None = None
    metric: float | None = None
    seconds: float | None = None
    took: float = 0.0


@dataclass
class Deployed:
    """What `deploy` made.

    Attributes:
        path: The file.
        stages: The stages, the original first.
        macs: Multiply-accumulates before and after.
        warnings: What the caller should know.
    """

    path: Path
    stages: list[Stage] = field(default_factory=list)
    macs: tuple[int, int] | None = None
    warnings: list[str] = field(default_factory=list)

    @property
    def compression(self) -> float:
        """Bytes of the original's file by those of the result's."""
        return self.stages[0].bytes / self.stages[-1].bytes

    def as_dict(self) -> dict[str, Any]:
        """The same as plain data, ready for JSON."""
        return {
            "schema": SCHEMA,
            **asdict(self),
            "path": str(self.path),
            "compression": self.compression,
        }

    def __str__(self) -> str:
        first = self.stages[0]
        head = [
            "stage",
            "parameters",
            "kB",
            "gzip kB",
            "outputs kept",
            "same answer",
            "metric",
            "ms",
        ]
        rows = [head]
        for stage in self.stages:
            rows.append([
                stage.name, f"{stage.parameters:,}", f"{stage.bytes / 1e3:,.1f}",
                f"{stage.zipped / 1e3:,.1f}", percent(stage.kept), percent(stage.same),
                digits(stage.metric),
                "-" if stage.seconds is None else f"{stage.seconds * 1e3:.3g}",
            ])  # fmt: skip
        widths = [max(len(row[i]) for row in rows) for i in range(len(head))]
        lines = [
            "  ".join(x.ljust(w) if i == 0 else x.rjust(w) for i, (x, w) in
                      enumerate(zip(row, widths, strict=True))).rstrip()
            for row in rows
        ]  # fmt: skip
        last = self.stages[-1]
        lines.append(f"{self.compression:.1f}x fewer bytes")
        if self.macs is not None:
            lines[-1] += f", {self.macs[0] / self.macs[1]:.1f}x fewer MACs"
        if first.seconds and last.seconds:
            lines[-1] += f", {first.seconds / last.seconds:.1f}x as fast as measured"
        return "\n".join([*lines, *(f"note: {text}" for text in self.warnings)])


def low(last: Stage, recovered: bool) -> str:
    """A word of warning where the result hardly answers as the original does; empty elsewhere.

    Args:
        last: The last stage.
        recovered: Whether the smaller model was trained again.
    """
    shares = [share for share in (last.kept, last.same) if share is not None]
    if not shares or max(shares) >= POOR:
        return ""
    again = "recover for longer" if recovered else "recover"
    return (
        f"agreement is low: outputs keep {percent(last.kept)} of their variation: {again}, pass "
        "data, or lower the ratio; of a model that is not trained this tells little"
    )


def steep(compression: float) -> str:
    """A word of warning about a high compression."""
    text = f"{compression:.0f}x smaller: look at agreement and metric before you ship it"
    if compression > STEEPEST:
        text += (
            "; beyond some 20x few published methods keep their accuracy, even when trained again "
            "(Blalock et al., What is the State of Neural Network Pruning?, MLSys 2020)"
        )
    return text

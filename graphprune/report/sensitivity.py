"""What it costs to shrink each coupled group alone."""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass, field
from typing import Any

import numpy as np

from graphprune.report.explored import SCHEMA, Explored
from graphprune.report.plots import Bar, Plot, bars
from graphprune.report.text import digits, percent

_LEAST = 3  # groups, fewer of which have no order to speak of


@dataclass(frozen=True)
class Sensitive:
    """What it costs to shrink one coupled group, the others staying whole.

    Attributes:
        group: Its name.
        size: How many indices it has.
        removed: How many went.
        params: Share of the model's parameters that went with them.
        predicted: Share of what the group's readers compute that is lost, by the loss curve; None
            where there is none: another criterion, or channels that are summed over between two
            computed operands, as in attention.
        lost: Share of the outputs' variation that is lost, measured; None where nothing can be
            compared.
        metric: The metric of the smaller model; None without one.
    """

    group: str
    size: int
    removed: int
    params: float
    predicted: float | None
    lost: float | None
    metric: float | None


@dataclass(repr=False)
class Sensitivity(Explored):
    """What it costs to shrink each coupled group of a model.

    Attributes:
        model: Its name.
        ratio: Fraction of each group that went.
        base: The metric of the model itself; None without one.
        rows: One for each group, in the order of the model.
    """

    model: str
    ratio: float
    base: float | None
    rows: list[Sensitive] = field(default_factory=list)

    def _pairs(self) -> list[tuple[float, float]]:
        """What is predicted and measured, where both are."""
        return [
            (row.predicted, row.lost)
            for row in self.rows
            if row.predicted is not None and row.lost is not None
        ]

    @property
    def correlation(self) -> float | None:
        """Spearman's rank correlation of what is predicted and what is measured, from -1 to 1.

        It says how far the loss curves, which cost nothing, may stand for the measurement; None
        where there are fewer than three groups, or nothing to compare.
        """
        pairs = self._pairs()
        if len(pairs) < _LEAST:
            return None
        ranks = [np.argsort(np.argsort(column)) for column in zip(*pairs, strict=True)]
        if any(np.ptp(x) == 0 for x in zip(*pairs, strict=True)):
            return None
        return float(np.corrcoef(ranks[0], ranks[1])[0, 1])

    @property
    def scale(self) -> float:
        """What predictions are multiplied by to be comparable: the median of measured by predicted.

        The curves speak of what layers compute, the measurement of the model's outputs.
        """
        found = [lost / told for told, lost in self._pairs() if told > 0 and lost > 0]
        return float(np.median(found)) if found else 1.0

    @property
    def error(self) -> float | None:
        """By which factor predictions miss, at the median, once all are multiplied by `scale`.

        None where there are fewer than three groups, or nothing to compare.
        """
        scale = self.scale
        off = [
            abs(math.log(lost / (scale * told)))
            for told, lost in self._pairs()
            if told > 0 and lost > 0
        ]
        return math.exp(float(np.median(off))) if len(off) >= _LEAST else None

    def as_dict(self) -> dict[str, Any]:
        """The result as plain data."""
        found = {"correlation": self.correlation, "error": self.error, "scale": self.scale}
        return {"schema": SCHEMA, **asdict(self), **found}

    def _ordered(self) -> list[Sensitive]:
        """The groups, the most sensitive first."""
        return sorted(self.rows, key=lambda row: -(row.lost or row.predicted or 0.0))

    def plot(self) -> Plot:
        """The groups, the most sensitive first: dots for what is measured, rings for predictions.

        Predictions are multiplied by `scale`.
        """
        return bars([Bar(r.group, r.predicted, r.lost) for r in self._ordered()], self.scale)

    def columns(self) -> tuple[tuple[str, ...], list[tuple[str, ...]]]:
        """The result as a table: names of columns, and rows, the most sensitive group first."""
        head = ("group", "removed", "params", "predicted loss", "measured loss")
        rows = [
            (row.group, f"{row.removed} of {row.size}", f"{row.params:.1%}", percent(row.predicted),
             percent(row.lost), *([digits(row.metric)] if self.base is not None else []))
            for row in self._ordered()
        ]  # fmt: skip
        return (*head, "metric") if self.base is not None else head, rows

    def notes(self) -> list[str]:
        """What the table does not say."""
        out = [] if self.base is None else [f"metric of the model itself: {self.base:.4g}"]
        if self.correlation is not None:
            out.append(f"rank correlation of predicted and measured loss: {self.correlation:.2f}")
        if self.error is not None:
            out.append(
                f"predicted losses times {self.scale:.2g} miss the measured ones by a factor of "
                f"{self.error:.1f} (median)"
            )
        return out

    def __repr__(self) -> str:
        return f"Sensitivity({self.model}: {len(self.rows)} groups, {self.ratio:.0%} of each)"

    def title(self) -> str:
        """The result in a line."""
        return f"{self.model}: {self.ratio:.0%} of each group alone"

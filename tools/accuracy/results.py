"""Measured cells, one JSON line each, and the tables made of them."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator
from dataclasses import asdict, dataclass, field
from pathlib import Path

import numpy as np


@dataclass(frozen=True)
class Cell:
    """One method on one network at one budget.

    Attributes:
        task: Name of the data.
        net: Name of the network.
        seed: Of the network and of the split of the data.
        split: What was scored: "validation" or "test".
        method: Name of the method; "dense" for the network as it is.
        of: The cost.
        ratio: The share of it to remove.
        scores: By recalibration of the batch norms ("none", "synthetic", "real"), and "tuned".
        failed: What went wrong, if anything did.
        seconds: For the method alone.
        params: Share of the parameters that is left.
    """

    task: str
    net: str
    seed: int
    split: str
    method: str
    of: str = ""
    ratio: float = 0.0
    scores: dict[str, float] = field(default_factory=dict)
    failed: str = ""
    seconds: float = 0.0
    params: float = 1.0

    @property
    def key(self) -> tuple[object, ...]:
        """What was measured."""
        return (
            self.task, self.net, self.seed, self.split, self.method, self.of, f"{self.ratio:g}"
        )  # fmt: skip


class Results:
    """Cells, kept in a file if one is given, so that a run can be gone on with."""

    def __init__(self, path: Path | None) -> None:
        self._path = path
        self.cells: dict[tuple[object, ...], Cell] = {}
        if path is not None and path.exists():
            for line in path.read_text(encoding="utf-8").splitlines():
                self._hold(Cell(**json.loads(line)))

    def add(self, cell: Cell) -> None:
        """Keep a cell."""
        self._hold(cell)
        if self._path is not None:
            self._path.parent.mkdir(parents=True, exist_ok=True)
            with self._path.open("a", encoding="utf-8") as file:
                file.write(json.dumps(asdict(cell)) + "\n")

    def _hold(self, cell: Cell) -> None:
        self.cells[cell.key] = cell


def table(cells: Iterable[Cell], nets: list[str], title: str) -> Iterator[str]:
    """Mean scores over some networks and all seeds, as Markdown.

    A cell shows the network as it was pruned and, in brackets, with its batch norms recalibrated
    on synthetic and on real inputs; then the score after fine-tuning, if there was any.
    """
    own = [cell for cell in cells if cell.net in nets]
    dense = [cell.scores["none"] for cell in own if cell.method == "dense"]
    if not dense:
        return
    budgets = list(dict.fromkeys((cell.of, cell.ratio) for cell in own if cell.of))
    names = list(dict.fromkeys(cell.method for cell in own if cell.of))
    yield f"| {title} | " + " | ".join(f"{of} {ratio:g}" for of, ratio in budgets) + " |"
    yield "|---" * (1 + len(budgets)) + "|"
    yield f"| dense | {_number(dense)}" + " |" * len(budgets)
    for name in names:
        row = []
        for of, ratio in budgets:
            found = [c for c in own if (c.method, c.of, c.ratio) == (name, of, ratio)]
            whole = {cell.net for cell in found} == set(nets)  # a mean over fewer is another mean
            row.append(_shown(found) if whole else "-")
        yield f"| {name} | " + " | ".join(row) + " |"


def _shown(cells: list[Cell]) -> str:
    """Scores of the cells that did not fail, and how many did."""
    alive = [cell for cell in cells if not cell.failed]
    failed = f"failed {len(cells) - len(alive)} of {len(cells)}"
    if not alive:
        return failed
    kinds = [kind for kind in ("synthetic", "real") if all(kind in c.scores for c in alive)]
    again = " / ".join(f"{np.mean([c.scores[kind] for c in alive]):.1f}" for kind in kinds)
    text = _number([c.scores["none"] for c in alive]) + (f" ({again})" if again else "")
    if all("tuned" in c.scores for c in alive):
        text += f" → {np.mean([c.scores['tuned'] for c in alive]):.1f}"
    return text if len(alive) == len(cells) else f"{text}, {failed}"


def _number(values: list[float]) -> str:
    """A mean, and the standard deviation where there are several."""
    spread = f" ± {np.std(values):.1f}" if len(values) > 1 else ""
    return f"{np.mean(values):.1f}{spread}"

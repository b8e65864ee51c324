"""What a plan did, in numbers and as text."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from rich.console import Console

from graphprune.core.agreement import Agreement
from graphprune.core.files import check_target, write_whole
from graphprune.core.markup import folded, heading, lines, table
from graphprune.core.proof import Verification
from graphprune.pipeline import PassRow
from graphprune.report.rows import GroupRow, LowRank, Sparse, WidthRow
from graphprune.report.text import WIDTH, agreed, notes, show, steps

SCHEMA = 1
"""The version of the report as data: it grows where a field is renamed or goes."""


@dataclass(repr=False)
class Report:
    """What a plan removes, what it costs, and what was proven.

    Attributes:
        model: Class of the model.
        of: The cost that `ratio` speaks of.
        asked: Ratio asked for.
        achieved: Ratio reached.
        params: Parameters before and after.
        macs: Multiply-accumulates for one sample, before and after.
        bytes: Bytes of the file, or of all tensors of a module, before and after; None before
            `apply`.
        agreement: How far the smaller model answers as the original does, on inputs that no step
            has seen; None before `apply`, and where it could not be measured.
        memory: Bytes of activations alive at once for the example inputs, before and after; None
            where they were not asked for.
        latency: Seconds of a forward pass of the example inputs, before and after, as measured.
        predicted: The speed-up that the table of measured operations predicted.
        groups: One row for each coupled group.
        layers: One row for each weight of at least two dimensions, in the order of the model.
        locks: Reasons for locks, with the number of axes.
        unknown: Operations without a rule, which locked what they touch.
        verification: Outcome of the checks; None if they were not asked for or not yet made.
        gap: Largest relative difference between the results of the given model and of the smaller
            one; None where they were not compared.
        training_gap: The same in training mode; None where that cannot be compared.
        zeros: For each weight that still holds zeros, how many, and of how many numbers; None
            where that was not asked for.
        kept_class: Whether the result has the model's own class; None before `apply`.
        replaced: Submodules that are generated code now, with the reason.
        edits: Attributes with new values.
        folded: Weights into which a softmax scale was folded.
        sparsity: What became zero; None where nothing did.
        ranks: The layers that became two; None where none did.
        compensation: What makes up for what was removed, or why nothing does.
        left: What stays although its kind could go, and operations that read fewer channels and
            could not be compensated, with the reason.
        passes: What each pass did, and how long it took.
        seconds: Time of each stage.
        warnings: What else the caller should know.
        assumed: The example inputs in words, where the caller gave none: MACs, latency and made
            statistics follow from them.
        call: The Python call that repeats it, as far as its arguments can be written down.
    """

    model: str
    of: str
    asked: float
    achieved: float
    params: tuple[int, int]
    macs: tuple[int, int]
    bytes: tuple[int, int] | None = None
    agreement: Agreement | None = None
    memory: tuple[int, int] | None = None
    latency: tuple[float, float] | None = None
    predicted: float | None = None
    groups: list[GroupRow] = field(default_factory=list)
    layers: list[WidthRow] = field(default_factory=list)
    locks: dict[str, int] = field(default_factory=dict)
    unknown: dict[str, list[str]] = field(default_factory=dict)
    verification: Verification | None = None
    gap: float | None = None
    training_gap: float | None = None
    zeros: dict[str, tuple[int, int]] | None = None
    kept_class: bool | None = None
    replaced: dict[str, str] = field(default_factory=dict)
    edits: dict[str, int] = field(default_factory=dict)
    folded: list[str] = field(default_factory=list)
    sparsity: Sparse | None = None
    ranks: LowRank | None = None
    compensation: str = ""
    left: dict[str, str] = field(default_factory=dict)
    passes: list[PassRow] = field(default_factory=list)
    seconds: dict[str, float] = field(default_factory=dict)
    warnings: list[str] = field(default_factory=list)
    assumed: str = ""
    call: str = ""

    def save(self, path: str | Path, command: str = "") -> None:
        """Write the report, whole or not at all: `.html`, `.json` or `.txt`.

        Args:
            path: Where to write. HTML is one file that fetches nothing.
            command: The command line that repeats it, for the page; else it shows `call`.

        Raises:
            GraphPruneError: The file cannot be written, or ends otherwise.
        """
        target = check_target(path, (".html", ".json", ".txt"))
        if target.suffix == ".html":
            from graphprune.report.page import page  # which takes a while to import

            text = page(self, command)
        elif target.suffix == ".json":
            text = json.dumps(self.as_dict(), indent=1) + "\n"
        else:
            text = str(self)
        write_whole(target, text.encode())

    def as_dict(self) -> dict[str, Any]:
        """The report as plain data, ready for JSON; `docs/reports.md` lists its fields."""
        return {"schema": SCHEMA, **asdict(self)}

    def sentence(self) -> str:
        """The report in a line."""
        before, after = self.params
        text = f"{self.model}: {self.achieved:.1%} of {self.of} removed, "
        text += f"{before:,} -> {after:,} parameters"
        return text if self.agreement is None else f"{text}, agreement {self.agreement.share:.1%}"

    def __repr__(self) -> str:
        return f"Report({self.sentence()})"

    def _repr_html_(self) -> str:
        """The report for notebooks: what matters first, and the groups as a table."""
        first = [agreed(self)] if self.agreement is not None else []
        first += [f"inputs assumed: {self.assumed}"] if self.assumed else []
        rows = [(row.name, row.size, row.kept) for row in self.groups]
        groups = table(("coupled group", "size", "kept"), rows)
        rest = lines(notes(self)) + folded("what each pass did", steps(self))
        return heading(self.sentence()) + lines(first) + groups + rest

    def __str__(self) -> str:
        console = Console(width=WIDTH, no_color=True)
        with console.capture() as capture:
            show(self, console)
        return capture.get()

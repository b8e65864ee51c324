"""What a plan did, in numbers and as text."""

from __future__ import annotations

import json
import re
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

from graphprune.core.agreement import CLOSE, POOR, Agreement
from graphprune.core.files import check_target, write_whole
from graphprune.core.groups import Dependencies, Lock
from graphprune.core.markup import heading, lines, table
from graphprune.core.proof import Verification
from graphprune.pipeline import PassRow

SCHEMA = 1
"""The version of the report as data: it grows where a field is renamed or goes."""

_WIDTH = 100  # of a report as text
_KINDS = 3  # kinds of operations that a line names


@dataclass(frozen=True, slots=True)
class GroupRow:
    """One coupled group.

    Attributes:
        name: Its first member, and what tells it from another group that starts there.
        size: How many indices it has.
        kept: How many stay.
        members: How many dimensions of weights hold it.
        reasons: Of indices that went at no cost, how many for which reason: `zero`,
            `constant`, `unread`.
        curve: Scores in the order in which indices go, at most a hundred of them; empty where the
            plan was loaded.
    """

    name: str
    size: int
    kept: int
    members: int
    reasons: dict[str, int] = field(default_factory=dict)
    curve: list[float] = field(default_factory=list)


@dataclass(frozen=True, slots=True)
class LayerRow:
    """A layer that became sparse: its weight, how many numbers it holds, and how many are zero."""

    name: str
    size: int
    zeros: int


@dataclass
class Sparse:
    """What became zero.

    Attributes:
        pattern: How the zeros lie.
        how: How they were chosen and spread.
        layers: One row for each sparse layer.
        whole: Parameters of the model, those of other layers included.
        gzip: Bytes of the sparse layers once compressed, before and after, from a slice of each.
        left: Weights that are left alone, with the reason.
    """

    pattern: str
    how: str
    layers: list[LayerRow]
    whole: int
    gzip: tuple[int, int] | None = None
    left: dict[str, str] = field(default_factory=dict)

    @property
    def size(self) -> int:
        """Numbers of all sparse layers."""
        return sum(row.size for row in self.layers)

    @property
    def zeros(self) -> int:
        """Zeros among them."""
        return sum(row.zeros for row in self.layers)


@dataclass(frozen=True, slots=True)
class RankRow:
    """A layer that became two.

    Attributes:
        name: Its weight.
        outputs: Rows of the weight as a matrix, in each group of a grouped convolution.
        columns: Columns: channels times places of a kernel.
        rank: Channels between the two layers.
    """

    name: str
    outputs: int
    columns: int
    rank: int


@dataclass
class LowRank:
    """The layers that became two.

    Attributes:
        layers: One row for each of them.
        left: Weights that stay whole although two layers would cost less, with the reason.
        in_file: Whether they are nodes of a file rather than modules.
    """

    layers: list[RankRow]
    left: dict[str, str] = field(default_factory=dict)
    in_file: bool = False


@dataclass(frozen=True, slots=True)
class WidthRow:
    """One weight of at least two dimensions.

    Attributes:
        name: The layer's.
        size: Outputs before.
        kept: Outputs after.
        group: The place of the outputs' first coupled group; None where they are locked.
    """

    name: str
    size: int
    kept: int
    group: int | None


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
            from graphprune.report.page import page  # which needs this module

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
        return heading(self.sentence()) + lines(first) + groups + lines(_notes(self))

    def __str__(self) -> str:
        console = Console(width=_WIDTH, no_color=True)
        with console.capture() as capture:
            show(self, console)
        return capture.get()


def as_text(found: Table) -> str:
    """A table as plain text."""
    console = Console(width=_WIDTH, no_color=True)
    with console.capture() as capture:
        console.print(found)
    return capture.get()


def lock_reasons(deps: Dependencies) -> dict[str, int]:
    """How many axes of weights, kernels apart, are locked for each reason."""
    reasons = (re.sub(r" at \S+$", "", lock.reason) for lock in deps.locks if not _is_kernel(lock))
    return dict(Counter(reasons).most_common())


def _is_kernel(lock: Lock) -> bool:
    """Whether an axis is a side of a window; windows may run along channels too (ECA)."""
    window = lock.reason.startswith("consumed by a window")
    return window and all(member.dim >= 2 for member in lock.members)


def figures(report: Report) -> Iterator[tuple[str, str, str, str]]:
    """The summary: label, before, after, and what that makes of it."""
    counted = [("parameters", report.params), ("MACs", report.macs), ("bytes", report.bytes)]
    for label, found in [*counted, ("peak activations, bytes", report.memory)]:
        if found is None:
            continue
        before, after = found
        share = f"{after / before - 1:.1%}" if before and after != before else ""
        yield label, f"{before:,}", f"{after:,}", share
    if report.latency is not None:
        slow, fast = report.latency
        yield "latency, ms", f"{slow * 1e3:.2f}", f"{fast * 1e3:.2f}", f"{slow / fast:.2f} x"


def show(report: Report, console: Console, rows: Iterable[tuple[str, str, str]] = ()) -> None:
    """Print a report.

    Args:
        report: The report.
        console: Where to print.
        rows: Further rows of the summary: label, before, after.
    """
    if report.agreement is not None:
        console.print(agreed(report), highlight=False, markup=False)
    if report.assumed:
        console.print(f"inputs assumed, as none were given: {report.assumed}", highlight=False)
    table = Table(title=_title(report))
    for name, justify in (("", "left"), ("before", "right"), ("after", "right"), ("", "right")):
        table.add_column(name, justify=justify)  # type: ignore[arg-type]
    for row in figures(report):
        table.add_row(*row)
    for label, old, new in rows:
        table.add_row(label, old, new, "")
    if report.sparsity is not None:
        _add_zeros(table, report.sparsity)
    console.print(table)
    if report.sparsity is not None:
        console.print(_layers(report.sparsity))
    elif report.ranks is None or any(row.kept < row.size for row in report.groups):
        console.print(_groups(report))
    if report.ranks is not None:
        console.print(_pairs(report.ranks))
    for line in _notes(report):
        console.print(line, highlight=False, markup=False)


def _title(report: Report) -> str:
    """What was done, in a line."""
    found = report.sparsity
    if found is None:
        return f"{report.model}: {report.achieved:.1%} of {report.of} removed"
    share = found.zeros / max(found.size, 1)
    return f"{report.model}: {share:.1%} of {len(found.layers)} layers is zero ({found.pattern})"


def _add_zeros(table: Table, found: Sparse) -> None:
    """Rows of the summary that count zeros."""
    share = found.zeros / max(found.whole, 1)
    table.add_row("zeros", "", f"{found.zeros:,}", f"{share:.1%} of the parameters")
    if found.gzip is not None:
        fewer = f"{found.gzip[1] / max(found.gzip[0], 1) - 1:.1%}"
        table.add_row("sparse layers, gzip", *(f"{x:,}" for x in found.gzip), fewer)


def _layers(found: Sparse) -> Table:
    """Zeros of each layer."""
    table = Table(title="sparse layers")
    table.add_column("weight", overflow="fold")
    for name in ("numbers", "zeros", ""):
        table.add_column(name, justify="right")
    for row in found.layers:
        share = f"{row.zeros / max(row.size, 1):.1%}"
        table.add_row(row.name, f"{row.size:,}", f"{row.zeros:,}", share)
    return table


def _pairs(found: LowRank) -> Table:
    """Ranks of the layers that became two."""
    table = Table(title="layers that became two")
    table.add_column("weight", overflow="fold")
    for name in ("outputs", "columns", "rank"):
        table.add_column(name, justify="right")
    for row in found.layers:
        table.add_row(row.name, str(row.outputs), str(row.columns), str(row.rank))
    return table


def _groups(report: Report) -> Table:
    table = Table(title="coupled groups")
    table.add_column("group", overflow="fold")
    for name in ("size", "kept", "weights"):
        table.add_column(name, justify="right")
    told = any(row.reasons for row in report.groups)
    if told:
        table.add_column("why")
    for row in report.groups:
        why = ", ".join(f"{number} {reason}" for reason, number in row.reasons.items())
        cells = (row.name, str(row.size), str(row.kept), str(row.members))
        table.add_row(*cells, *((why,) if told else ()))
    return table


def _notes(report: Report) -> list[str]:
    lines = []
    if report.sparsity is not None:
        lines += _zero_notes(report.sparsity)
    if report.ranks is not None:
        lines += _rank_notes(report.ranks)
    if report.verification is not None:
        lines.append(f"surgery verified: {verdict(report.verification)}")
    if report.gap is not None:
        lines.append(
            f"outputs: those of the given model (largest relative difference {report.gap:.1e})"
        )
    if report.training_gap is not None:
        lines.append(f"in training mode they differ by {report.training_gap:.1e}")
    if report.zeros is not None:
        lines += _zeros(report.zeros)
    if report.kept_class:
        lines.append(f"class: {report.model}, as it was")
    elif report.kept_class is not None:
        lines.append(f"class: generated code stands in for {report.model}")
    if report.latency is not None:
        measured = report.latency[0] / report.latency[1]
        fewer = report.macs[0] / max(report.macs[1], 1)
        beside = f"with {fewer:.2f} x fewer MACs"
        if report.predicted is not None:
            beside = f"{report.predicted:.2f} x predicted"
        lines.append(f"speed-up: {measured:.2f} x measured, {beside}")
    if report.compensation and report.gap is None:
        lines.append(f"compensation: {report.compensation}")
    lines += _left("not compensated" if report.gap is None else "left", report.left)
    lines += [f"warning: {warning}" for warning in report.warnings]
    for path, why in report.replaced.items():
        lines.append(f"generated: {path or 'the whole model'} ({why})")
    for reason, number in report.locks.items():
        lines.append(f"locked: {number} x {reason}")
    for kind, names in report.unknown.items():
        lines.append(f"no rule for {kind} ({len(names)} x): what it touches is locked")
    for row in report.passes:
        did = "changed" if row.changed else "unchanged"
        note = f": {row.note}" if row.note else ""
        lines.append(f"pass {row.name} ({did}, {row.seconds:.2f} s){note}")
    if report.seconds:
        lines.append("time: " + ", ".join(f"{k} {v:.2f} s" for k, v in report.seconds.items()))
    return lines


def _zeros(zeros: dict[str, tuple[int, int]]) -> list[str]:
    """The zeros that are left, in all and where most of them are."""
    if not zeros:
        return ["zeros left: none"]
    held, size = (sum(numbers) for numbers in zip(*zeros.values(), strict=True))
    most = sorted(zeros, key=lambda name: -zeros[name][0])
    shown = ", ".join(f"{name} {zeros[name][0] / zeros[name][1]:.0%}" for name in most[:_KINDS])
    more = ", ..." if len(most) > _KINDS else ""
    return [f"zeros left: {held:,} of {size:,} numbers in {len(zeros)} weights: {shown}{more}"]


def _zero_notes(found: Sparse) -> list[str]:
    return [
        f"zeros chosen: {found.how}",
        "speed: as before without sparse kernels; the file is smaller once compressed",
        *_left("left dense", found.left),
    ]


def _rank_notes(found: LowRank) -> list[str]:
    weight = found.layers[0].name
    old = weight if found.in_file else weight.removesuffix(".weight")
    parts = [f"{old}_{n}" if found.in_file else f"{old}.{n}" for n in (0, 1)]
    return [
        f"names: {' and '.join(parts)} stand for {old} now, and so on",
        *_left("left whole", found.left),
    ]


def _left(what: str, left: dict[str, str]) -> Iterator[str]:
    """What was left as it is, by reason."""
    for why, number in Counter(left.values()).items():
        names = [name for name, reason in left.items() if reason == why]
        shown = ", ".join(names[:_KINDS]) + (", ..." if number > _KINDS else "")
        yield f"{what}: {shown} ({why})"


def _but_for(names: Sequence[str]) -> str:
    """The operations whose results depend on how many channels there are, by what they are."""
    kinds = Counter(re.sub(r"_\d+$", "", name) for name in names)
    shown = ", ".join(f"{number} x {kind}" for kind, number in kinds.most_common(_KINDS))
    more = ", ..." if len(kinds) > _KINDS else ""
    return f"exact but for what depends on all channels at once: {shown}{more}"


def agreed(report: Report) -> str:
    """The agreement in a line, with a plain word, and what helps, where it is low."""
    found = report.agreement
    assert found is not None
    text = found.sentence()
    if found.share >= CLOSE:
        return f"agreement: {text}"
    word = "low" if found.share < POOR else "partial"
    if "untrained" in report.compensation:
        return f"agreement: {word}: {text}; the model looks untrained, which tells little"
    ways = ["fine-tune", *([] if found.real else ["pass data"]), "lower the ratio"]
    if report.compensation == "off":
        ways.insert(0, "compensate")
    return f"agreement: {word}: {text}: {', '.join(ways[:-1])}, or {ways[-1]}"


def verdict(found: Verification) -> str:
    """The outcome of the checks in a sentence."""
    kind = _but_for(found.mixing) if found.mixing else "exact"
    if found.granted:
        kind += f"; the results of {', '.join(found.granted)} were taken for granted"
    text = f"removal equals masking ({kind}; largest relative difference {found.difference:.1e})"
    if found.lowered is not None:
        text += f"; the module equals the rewritten graph ({found.lowered:.1e})"
    return text

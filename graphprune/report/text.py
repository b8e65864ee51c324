"""A report as text: tables for terminals, and sentences."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from typing import TYPE_CHECKING

from rich.console import Console
from rich.table import Table

from graphprune.core.agreement import CLOSE, POOR
from graphprune.core.proof import Verification
from graphprune.report.rows import LowRank, Sparse

if TYPE_CHECKING:  # whose methods print what is written here
    from graphprune.report.report import Report

WIDTH = 100  # of a report as text
_KINDS = 3  # kinds of operations that a line names


def percent(share: float | None) -> str:
    """A share in percent, or a dash."""
    return "-" if share is None else f"{share:.1%}"


def digits(number: float | None) -> str:
    """A number to four digits, or a dash."""
    return "-" if number is None else f"{number:.4g}"


def as_text(found: Table) -> str:
    """A table as plain text."""
    console = Console(width=WIDTH, no_color=True)
    with console.capture() as capture:
        console.print(found)
    return capture.get()


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
    for line in (*notes(report), *steps(report)):
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


def _table(title: str, first: str, *numbers: str) -> Table:
    """A table of names and numbers, without rows."""
    table = Table(title=title)
    table.add_column(first, overflow="fold")
    for name in numbers:
        table.add_column(name, justify="right")
    return table


def _layers(found: Sparse) -> Table:
    """Zeros of each layer."""
    table = _table("sparse layers", "weight", "numbers", "zeros", "")
    for row in found.layers:
        share = f"{row.zeros / max(row.size, 1):.1%}"
        table.add_row(row.name, f"{row.size:,}", f"{row.zeros:,}", share)
    return table


def _pairs(found: LowRank) -> Table:
    """Ranks of the layers that became two."""
    table = _table("layers that became two", "weight", "outputs", "columns", "rank")
    for row in found.layers:
        table.add_row(row.name, str(row.outputs), str(row.columns), str(row.rank))
    return table


def _groups(report: Report) -> Table:
    table = _table("coupled groups", "group", "size", "kept", "weights")
    told = any(row.reasons for row in report.groups)
    if told:
        table.add_column("why")
    for row in report.groups:
        why = ", ".join(f"{number} {reason}" for reason, number in row.reasons.items())
        cells = (row.name, str(row.size), str(row.kept), str(row.members))
        table.add_row(*cells, *((why,) if told else ()))
    return table


def notes(report: Report) -> list[str]:
    """What the tables do not say, in lines."""
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
    return lines


def steps(report: Report) -> list[str]:
    """What each pass did, and the time of all, in lines."""
    lines = []
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
    more = "pass more data" if "from data" in report.compensation else "pass data"
    ways = ["fine-tune", *([] if found.real else [more]), "lower the ratio"]
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

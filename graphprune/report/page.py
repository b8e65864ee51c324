"""The report as one HTML file: nothing is fetched, so that it can be sent and kept.

The pictures are SVG of the template's own rather than a plotting library's: they take the reader's
colours (light, dark), scale to a phone, say in words what they show, and need no other package.
"""

from __future__ import annotations

import math
import os
import platform
from collections.abc import Sequence
from importlib.metadata import PackageNotFoundError, version
from typing import Any

from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup

from graphprune.core.agreement import CLOSE
from graphprune.report.report import Report
from graphprune.report.rows import GroupRow
from graphprune.report.text import agreed, figures, verdict
from graphprune.version import __version__

_SECTIONS = (
    ("summary", "Summary"),
    ("network", "The network"),
    ("groups", "Coupled groups"),
    ("locks", "What stays, and why"),
    ("compensation", "Compensation"),
    ("verification", "Verification"),
    ("repeat", "Repeat it"),
)
_NAMED = ("torch", "torchvision", "timm", "transformers", "onnx", "onnxruntime", "numpy")
_WIDE = 100.0  # times the least score that the largest may be on a plain scale
_SIDE = 96.0  # of a curve's 100 units in height, which leaves room for the line's width


def page(report: Report, command: str = "") -> str:
    """The report as HTML.

    Args:
        report: The report.
        command: The command line that repeats it; the Python call where there is none.
    """
    found = report.agreement
    return _rendered(
        "page.html.j2",
        title=f"{report.model}: {100 * report.achieved:.1f} % of {report.of} removed",
        report=report,
        command=command,
        sections=_SECTIONS,
        agreement="" if found is None else agreed(report),
        low=found is not None and found.share < CLOSE,
        numbers=list(figures(report)),
        widest=max((layer.size for layer in report.layers), default=1),
        losses=any("loss curves" in row.note for row in report.passes),
        proven="" if report.verification is None else verdict(report.verification),
        points=_points,
        is_wide=_is_wide,
        cut_at=_cut_at,
        cut_score=_cut_score,
    )


def explored_page(
    title: str,
    picture: str,
    head: Sequence[str],
    rows: Sequence[Sequence[str]],
    notes: Sequence[str],
    command: str = "",
) -> str:
    """A sensitivity or a sweep as HTML.

    Args:
        title: What it is about, in a line.
        picture: SVG.
        head: Names of the table's columns.
        rows: Its cells.
        notes: What the table does not say.
        command: The command line that repeats it; empty where there is none.
    """
    sections = (("picture", "Picture"), ("numbers", "Numbers"), ("repeat", "Repeat it"))
    return _rendered(
        "explored.html.j2", title=title, picture=Markup(picture), head=head, rows=rows, notes=notes,
        command=command, sections=sections,
    )  # fmt: skip


def _rendered(template: str, **given: Any) -> str:
    """A template of this folder, filled."""
    tools = Environment(
        loader=PackageLoader("graphprune", "report"), autoescape=True, undefined=StrictUndefined
    )
    return tools.get_template(template).render(versions=_versions(), machine=_machine(), **given)


def _points(group: GroupRow) -> str:
    """A curve in a square of a hundred, its highest value at the top."""
    curve = [math.log(y) for y in group.curve] if _is_wide(group) else group.curve
    low = min(curve) if _is_wide(group) else min(min(curve), 0.0)
    high = max(*curve, 0.0) if not _is_wide(group) else max(curve)
    last, range_ = len(curve) - 1, (high - low) or 1.0
    return " ".join(
        f"{100 * i / last:.1f},{100 - 2 - _SIDE * (y - low) / range_:.1f}"
        for i, y in enumerate(curve)
    )


def _is_wide(group: GroupRow) -> bool:
    """Whether a curve needs a logarithmic scale to be seen where it is cut."""
    return min(group.curve) > 0 and max(group.curve) > _WIDE * min(group.curve)


def _cut_at(group: GroupRow) -> str:
    return f"{100 * (group.size - group.kept) / group.size:.1f}"


def _cut_score(group: GroupRow) -> float:
    """The score of the last index that went, as near as the curve's points tell."""
    last = len(group.curve) - 1
    gone = max(group.size - group.kept - 1, 0)
    return group.curve[round(last * gone / max(group.size - 1, 1))]


def _versions() -> str:
    known = [f"graphprune {__version__}", f"Python {platform.python_version()}"]
    for name in _NAMED:
        try:
            known.append(f"{name} {version(name)}")
        except PackageNotFoundError:
            continue
    return ", ".join(known)


def _machine() -> str:
    import torch

    on: Any = torch.cuda.get_device_name() if torch.cuda.is_available() else ""
    cores = f"{os.cpu_count()} processor cores, {torch.get_num_threads()} threads"
    return ", ".join(filter(None, [platform.system(), platform.machine(), cores, on]))

#!/usr/bin/env python
"""Writes `docs/operators.md`: which operations have a rule, which are locked on purpose.

    python tools/list_operators.py            # write the page
    python tools/list_operators.py --check    # exit 1 if the page is out of date

The lists are PyTorch's core ATen operations and every operator of the newest ONNX opset, as the
installed packages tell them.
"""

from __future__ import annotations

import argparse
import sys
from collections import Counter
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import onnx
import torch

if __name__ == "__main__":
    sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from graphprune.rules import registry

PAGE = Path(__file__).resolve().parent.parent / "docs" / "operators.md"
HEAD = """\
# Operators

<!-- Written by `python tools/list_operators.py`: change that, not this page. -->

What graphprune knows of each operation.

- **rule**: the operation has a rule (`graphprune/rules/`); axes pass through it.
- **locked**: the operation is known, and its axes are locked on purpose; the reason is given.
- **missing**: no rule. Axes that touch it are locked and the report names it. The result is
  still correct; less can be removed.

The lists come from the installed packages: {versions}.

| | operations | rule | locked | missing |
|---|---|---|---|---|
{totals}
"""


def core_aten() -> list[str]:
    """PyTorch's core ATen operations, without their overloads."""
    listed = torch._C._dispatch_get_all_op_names()  # "aten::add.Tensor"
    names = {name[6:].partition(".")[0] for name in listed if name.startswith("aten::")}
    packets = ((name, getattr(torch.ops.aten, name, None)) for name in names)
    return sorted(name for name, packet in packets if packet is not None and _is_core(packet))


def _is_core(packet: Any) -> bool:
    return any(torch.Tag.core in getattr(packet, o).tags for o in packet.overloads())


def onnx_operators() -> list[str]:
    """The operators of the newest default opset that are not deprecated."""
    newest = onnx.defs.onnx_opset_version()
    names = {schema.name for schema in onnx.defs.get_all_schemas() if not schema.domain}
    found = (onnx.defs.get_schema(name, newest) for name in names)
    return sorted(schema.name for schema in found if not schema.deprecated)


def standing(kind: str, locked: Mapping[str, str]) -> tuple[str, str]:
    """Whether an operation type has a rule, and why it is locked where it is on purpose."""
    if kind in locked:
        return "locked", locked[kind]
    return ("rule" if registry.is_known(kind) else "missing"), ""


def section(title: str, kinds: Mapping[str, str]) -> tuple[str, Iterator[str]]:
    """A row of totals, and the lines of a table with every operation.

    Args:
        title: What the operations are.
        kinds: The operation type as rules know it, by the name that is shown.
    """
    locked = registry.locked_types()
    found = {name: standing(kind, locked) for name, kind in kinds.items()}
    count = Counter(state for state, _ in found.values())
    states = " | ".join(str(count[state]) for state in ("rule", "locked", "missing"))

    def lines() -> Iterator[str]:
        yield f"\n## {title}\n"
        yield "| operation | | |"
        yield "|---|---|---|"
        for name, (state, why) in found.items():
            yield f"| `{name}` | {f'**{state}**' if state == 'missing' else state} | {why} |"

    return f"| {title} | {len(found)} | {states} |", lines()


def page() -> str:
    """The whole page."""
    parts = [
        section("Core ATen", {name: f"aten.{name.removesuffix('_')}" for name in core_aten()}),
        section("ONNX", {name: name for name in onnx_operators()}),
    ]
    totals = "\n".join(row for row, _ in parts)
    head = HEAD.format(versions=versions(), totals=totals).rstrip("\n")
    return "\n".join([head, *(line for _, lines in parts for line in lines)]) + "\n"


def versions() -> str:
    """The packages that the lists come from."""
    release = torch.__version__.partition("+")[0]
    return f"PyTorch {release}, ONNX opset {onnx.defs.onnx_opset_version()}"


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--check", action="store_true", help="only say whether it is up to date")
    if not parser.parse_args().check:
        PAGE.write_text(page())
        return 0
    if PAGE.read_text() == page():
        return 0
    print(f"{PAGE.name} is out of date: run python tools/list_operators.py")
    return 1


if __name__ == "__main__":
    sys.exit(main())

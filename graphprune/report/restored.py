"""A report from plain data, as `Report.as_dict` made it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import fields
from typing import Any

from graphprune.core.agreement import Agreement
from graphprune.core.errors import GraphPruneError
from graphprune.core.proof import Verification
from graphprune.pipeline import PassRow
from graphprune.report.report import SCHEMA, Report
from graphprune.report.rows import GroupRow, LayerRow, LowRank, RankRow, Sparse, WidthRow

_PAIRS = ("params", "macs", "bytes", "memory", "latency")  # tuples, which JSON makes lists of

_ROWS: dict[str, type[Any]] = {"groups": GroupRow, "layers": WidthRow, "passes": PassRow}
_PARTS: dict[str, type[Any]] = {"agreement": Agreement, "verification": Verification}


def restored(data: Mapping[str, Any]) -> Report:
    """The report that was made plain data of.

    Raises:
        GraphPruneError: It is none, or of another version; says which.
    """
    try:
        if data["schema"] != SCHEMA:
            raise GraphPruneError(
                f"a report of schema {data['schema']}; this version reads {SCHEMA}"
            )
        held = {each.name: data[each.name] for each in fields(Report) if each.name in data}
        for name in _PAIRS:
            if held.get(name) is not None:
                held[name] = tuple(held[name])
        for name, row in _ROWS.items():
            held[name] = [row(**found) for found in held.get(name, ())]
        for name, kind in _PARTS.items():
            if held.get(name) is not None:
                held[name] = kind(**held[name])
        if held.get("zeros") is not None:
            held["zeros"] = {name: tuple(found) for name, found in held["zeros"].items()}
        if held.get("sparsity") is not None:
            found = dict(held["sparsity"])
            found["layers"] = [LayerRow(**row) for row in found["layers"]]
            found["gzip"] = None if found["gzip"] is None else tuple(found["gzip"])
            held["sparsity"] = Sparse(**found)
        if held.get("ranks") is not None:
            found = dict(held["ranks"])
            found["layers"] = [RankRow(**row) for row in found["layers"]]
            held["ranks"] = LowRank(**found)
        return Report(**held)
    except (AttributeError, KeyError, TypeError, ValueError) as error:
        raise GraphPruneError(f"not a report of graphprune: {error!r}") from error

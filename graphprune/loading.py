"""Plans from files and from plain data."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from graphprune.compensation.options import Options
from graphprune.core.edits import edit_of
from graphprune.core.errors import GraphPruneError, PlanError
from graphprune.core.files import as_path
from graphprune.costs.registry import cost_name
from graphprune.extensions import load_installed
from graphprune.frontends.onnx import is_onnx
from graphprune.frontends.torch.described import restore
from graphprune.pipeline import Pipeline
from graphprune.plans import Plan

_READS = (1, 2)  # 1 had groups alone, without their kind


def load_plan(path: Any) -> Plan[Any]:
    """Read a plan that `Plan.save` wrote, in this version or an earlier one.

    Args:
        path: The plan's file; or a smaller ONNX model, as a file or a `ModelProto`, whose metadata
            hold the plan that made it.

    Raises:
        PlanError: The file is not a plan; the message says why.
        GraphPruneError: The file cannot be read, or the model holds no plan.

    Example::

        graphprune.plan(model, 0.5).save("plan.json")
        small = graphprune.load_plan("plan.json").apply(fresh_model)
    """
    load_installed()
    if is_onnx(path):
        from graphprune.frontends.onnx.notes import note_of

        return plan_of(note_of(path, "plan")[0])
    try:
        data = json.loads(as_path(path).read_text(encoding="utf-8"))
    except OSError as error:
        raise GraphPruneError(f"cannot read {path}: {error.strerror}") from error
    except ValueError as error:
        raise PlanError(f"{path} is not a graphprune plan: {error}") from error
    try:
        return plan_of(data)
    except GraphPruneError as error:
        raise PlanError(f"{path}: {error}") from error


def plan_of(data: Mapping[str, Any]) -> Plan[Any]:
    """The plan that `Plan.as_dict` made plain data of, in this version or an earlier one.

    Raises:
        PlanError: The data are no plan; the message says why.
    """
    try:
        if data["format"] not in _READS:
            raise PlanError(
                f"a plan of format {data['format']}; this version reads "
                f"{' and '.join(map(str, _READS))}"
            )
        inputs = None if data["inputs"] is None else restore(data["inputs"])
        seed = int(data.get("seed", 0))
        options = Options(data.get("compensate", "auto"), data.get("effort", "auto"), seed=seed)
        edits = [edit_of(edit) for edit in _edits(data)]
        passes = data.get("passes")
        pipeline = None if passes is None else Pipeline(passes)
        of, ratio = cost_name(data["of"]), float(data["ratio"])
        released = list(data.get("released", ()))
        return Plan(
            edits, inputs, data["keep"], of, ratio, seed=seed, released=released, options=options,
            pipeline=pipeline, call=str(data.get("call", "")),
        )  # fmt: skip
    except (AttributeError, IndexError, ValueError, KeyError, TypeError, RuntimeError) as error:
        raise PlanError(f"not a graphprune plan: {error!r}") from error


def _edits(data: Mapping[str, Any]) -> list[Mapping[str, Any]]:
    """The edits of a saved plan: one for each group, and others."""
    groups = [{"group": number, **group} for number, group in enumerate(data.get("groups", ()))]
    return [*groups, *data.get("edits", ())]

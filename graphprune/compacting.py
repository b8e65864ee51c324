"""Compacting: a plan without a ratio, of what changes no output."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, TypedDict, cast

from graphprune.frontends.torch.inference import undisturbed
from graphprune.options import PlanOptions, check_options
from graphprune.pipelines import COMPACT
from graphprune.planning import planned
from graphprune.plans import Plan, made


class CompactOptions(TypedDict, total=False):
    """All options of `graphprune.compact`."""

    example_inputs: Any
    data: Any
    assume: str | None
    keep: Any
    verify: bool
    seed: int


@undisturbed
def compacted(model: Any, options: Mapping[str, Any]) -> Plan[Any]:
    """Decide what goes without any change of the outputs.

    Args:
        model: As for `graphprune.compact`.
        options: As for `graphprune.compact`.

    Raises:
        OptionError: There is no such option.
    """
    check_options(options, CompactOptions, "compact")
    given = cast(PlanOptions, {**options, "passes": COMPACT, "compensate": False})
    return made(planned(model, None, "params", given))

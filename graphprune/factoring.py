"""Factoring: a plan that makes layers two in a row, with few channels between them."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, cast

from graphprune.choice.request import Limits
from graphprune.costs.registry import Counting
from graphprune.frontends.torch.inference import undisturbed
from graphprune.options import PlanOptions, Repairing, check_options
from graphprune.pipelines import FACTOR
from graphprune.planning import planned
from graphprune.plans import Plan, made


class FactorOptions(Repairing, total=False):
    """All options of `graphprune.factor`, ratio and cost apart."""

    budget: Mapping[Any, float] | None
    limits: Limits | None
    round_to: int | str
    keep: Any


@undisturbed
def factored(
    model: Any, ratio: float | None, of: str | Counting, options: Mapping[str, Any]
) -> Plan[Any]:
    """Decide which layers become two, and how few channels there are between.

    Args:
        model: As for `graphprune.factor`.
        ratio: As for `graphprune.factor`.
        of: As for `graphprune.factor`.
        options: As for `graphprune.factor`.

    Raises:
        OptionError: There is no such option.
    """
    check_options(options, FactorOptions, "factor")
    return made(planned(model, ratio, of, cast(PlanOptions, {**options, "passes": FACTOR})))


__all__ = ["FACTOR", "FactorOptions", "factored"]

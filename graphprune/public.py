"""All public names, imported: what `graphprune` hands out when one of them is first asked for."""

from graphprune.api import analyze, compact, factor, plan, plan_sparsity, shrink, sparsify
from graphprune.core.errors import (
    AxisError,
    BudgetError,
    EvaluationError,
    GraphPruneError,
    LiftError,
    OptionError,
    PassError,
    PlanError,
    VerifyError,
)
from graphprune.core.groups import Dependencies
from graphprune.costs.registry import cost
from graphprune.deploying.deploy import deploy
from graphprune.deploying.deployed import Deployed
from graphprune.exploring import sensitivity
from graphprune.frontends.opening import frontend
from graphprune.importance import criterion
from graphprune.loading import load_plan
from graphprune.pipeline import Pass, Pipeline
from graphprune.pipelines import BOTH, COMPACT, DEFAULT, FACTOR
from graphprune.plans import Plan
from graphprune.quantising.quantise import quantise
from graphprune.quantising.quantised import Quantised
from graphprune.recalibration import recalibrate, report_of
from graphprune.report.report import Report
from graphprune.report.sensitivity import Sensitivity
from graphprune.report.sweep import Sweep
from graphprune.rules import axis_rule
from graphprune.sweeping import sweep
from graphprune.training import recover
from graphprune.version import __version__

__all__ = [
    "BOTH",
    "COMPACT",
    "DEFAULT",
    "FACTOR",
    "AxisError",
    "BudgetError",
    "Dependencies",
    "Deployed",
    "EvaluationError",
    "GraphPruneError",
    "LiftError",
    "OptionError",
    "Pass",
    "PassError",
    "Pipeline",
    "Plan",
    "PlanError",
    "Quantised",
    "Report",
    "Sensitivity",
    "Sweep",
    "VerifyError",
    "__version__",
    "analyze",
    "axis_rule",
    "compact",
    "cost",
    "criterion",
    "deploy",
    "factor",
    "frontend",
    "load_plan",
    "plan",
    "plan_sparsity",
    "quantise",
    "recalibrate",
    "recover",
    "report_of",
    "sensitivity",
    "shrink",
    "sparsify",
    "sweep",
]

"""The pipeline: passes in order, what they work on, and what each of them did."""

from graphprune.pipeline.asked import Asked
from graphprune.pipeline.outcome import Outcome, PassRow
from graphprune.pipeline.pipeline import Pipeline, named, run
from graphprune.pipeline.registry import FINDINGS, PASSES
from graphprune.pipeline.step import Pass
from graphprune.pipeline.work import Work

__all__ = [
    "FINDINGS", "PASSES", "Asked", "Outcome", "Pass", "PassRow", "Pipeline", "Work", "named", "run",
]  # fmt: skip

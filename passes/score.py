"""score: how much each index of each coupled group matters."""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from graphprune.core.errors import GraphPruneError, PassError
from graphprune.importance.free import foremost
from graphprune.importance.registry import DECIDED
from graphprune.importance.score import score
from graphprune.pipeline import Outcome, Pass, Work
from graphprune.statistics.estimate import seconds


class Score(Pass):
    """Score every index of every coupled group.

    `"obs"` scores by the full Hessian of every reader's squared error, the inverse of which is
    downdated as indices go (Hassibi & Stork, Optimal Brain Surgeon, 1993); `"auto"` lets the same
    curves decide how much of each group goes, and is `"l2"` where there are no statistics. Indices
    whose removal changes nothing go first, whatever the criterion.

    - Requires: coupled groups.
    - Ensures: one finite score for each index of each group; the lowest go first.
    """

    name = "score"
    requires = ("deps",)
    ensures = ("scores",)

    def run(self, work: Work) -> Outcome:
        """Score by the criterion that is asked for."""
        asked, request = work.asked, work.asked.request
        criterion = asked.importance
        if criterion in DECIDED:
            statistics = work.statistics()
            wanted = request.nontrivial() or criterion == "obs"
            curves = statistics.levels() if wanted else None
            if curves is not None:
                work.scores = foremost(work.deps, curves, work.free)
                if criterion == "auto" and request.allocation == "auto":
                    asked.request = replace(request, allocation="loss")
                return self.unchanged("loss curves after compensation")
            if criterion == "obs":
                raise GraphPruneError(
                    f"importance='obs' needs statistics of the layers' inputs, and there are none "
                    f"(compensation: {statistics.note}): pass data=, and leave compensate on"
                )
            criterion = "l2"
        scores = score(work.deps, criterion, work.context(), asked.reduction)
        work.scores = foremost(work.deps, scores, work.free)
        return self.unchanged(criterion if isinstance(criterion, str) else "a criterion of yours")

    def reads(self, work: Work) -> bool:
        """Where loss curves decide."""
        asked = work.asked
        wanted = asked.request.nontrivial() or asked.importance == "obs"
        return wanted and asked.importance in DECIDED and work.statistics().wanted

    def takes(self, work: Work, effort: str | float) -> float:
        """Loss curves where they decide; else gradients of the data, which most criteria follow."""
        if work.asked.importance in DECIDED:
            found = work.statistics().forecast(effort)
            return 0.0 if found is None or not self.reads(work) else found.weighing
        return seconds(work.deps, sum(batch.samples for batch in work.batches), 1)

    def after(self, work: Work) -> None:
        """Every index has a finite score."""
        for group, found in zip(work.deps.groups, work.scores, strict=True):
            if len(found) != group.size or not np.isfinite(found).all():
                raise PassError(f"{group.name}: {group.size} finite scores are needed")

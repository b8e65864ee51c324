"""offer_ranks: the layers that can become two in a row, and what few channels between them cost."""

from __future__ import annotations

import numpy as np

from graphprune.core.errors import PassError
from graphprune.lowrank.estimate import weighing
from graphprune.lowrank.offers import find_offers
from graphprune.lowrank.ranks import offered
from graphprune.pipeline import Outcome, Pass, Work


class OfferRanks(Pass):
    """Find the layers that can become two, with a loss curve for the channels between.

    - Requires: coupled groups; their scores, where widths are chosen within the same budget.
    - Ensures: for each linear layer and convolution that two layers of few channels between them
      could stand for at less cost, what each number of channels loses; all others stay whole, with
      the reason.
    """

    name = "offer_ranks"
    requires = ("deps",)
    ensures = ("ranks",)

    def reads(self, work: Work) -> bool:
        """Unless layers are looked at by their weights alone."""
        return work.statistics().wanted

    def takes(self, work: Work, effort: str | float) -> float:
        """Spectra of all layers."""
        offers = find_offers(work.deps, work.program.unsplit, work.asked.keep).offers
        return weighing(work.deps, offers, work.statistics().forecast(effort))

    def run(self, work: Work) -> Outcome:
        """Look at the spectrum of every layer, weighed by what it reads."""
        found = find_offers(work.deps, work.program.unsplit, work.asked.keep)
        widths = work.scores if work.has("scores") else None
        work.ranks = offered(work.deps, found, work.statistics(), widths)
        how = "what they read" if work.ranks.read else "their weights alone"
        return self.unchanged(f"{len(work.ranks.offers)} layers can become two, by {how}")

    def after(self, work: Work) -> None:
        """Every index has a finite score, and the first channels matter most."""
        ranks = work.ranks
        for offer, scores in zip(ranks.offers, ranks.scores[ranks.first :], strict=True):
            if not np.isfinite(scores).all() or (np.diff(scores) > 0).any():
                raise PassError(f"{offer.weight.name}: ranks are not in order")

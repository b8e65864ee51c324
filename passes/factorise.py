"""factorise: two layers in a row in place of one, in the smaller model."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from graphprune.core.cuts import narrow
from graphprune.core.errors import PlanError, first_line
from graphprune.core.graph import Value
from graphprune.core.groups import Dependencies
from graphprune.core.program import Expressed, Lowered, Program
from graphprune.core.progress import progress
from graphprune.lowrank.estimate import solving
from graphprune.lowrank.factoring import Factoring, Factors, plainly
from graphprune.lowrank.offers import Offer, find_offers
from graphprune.lowrank.ranks import ranked, ranks_of
from graphprune.passes.couple import couple
from graphprune.pipeline import Outcome, Pass, Work
from graphprune.statistics.constants import BACKWARD_FACTOR
from graphprune.statistics.estimate import seconds
from graphprune.statistics.made.plain import carried
from graphprune.statistics.samples import Samples, captured

_RUNS = 4  # of the captured batch, of both models, in double precision


class Factorise(Pass):
    """Put two layers in place of one wherever an edit gives a rank.

    - Requires: the smaller model, compensated where indices went.
    - Ensures: the smaller model computes, in evaluation and in training, what it computes with the
      product of the two as the one layer's weight; biases make up for what changes on average.
    """

    name = "factorise"
    requires = ("deps", "choice", "lowered")
    ensures = ("lowered",)
    makes = True

    def reads(self, work: Work) -> bool:
        """Unless layers are looked at by their weights alone."""
        return work.statistics().wanted

    def takes(self, work: Work, effort: str | float) -> float:
        """The two layers in place of each one, as if all became two, and a comparison."""
        offers = find_offers(work.deps, work.program.unsplit, work.asked.keep).offers
        check = _RUNS * seconds(work.deps, captured(work.deps), 1) / BACKWARD_FACTOR
        found = work.statistics().forecast(effort)
        return solving(work.deps, offers, found) + (check if work.asked.verify else 0.0)

    def run(self, work: Work) -> Outcome:
        """Solve layer after layer, write the products, and put two layers in their place."""
        ranks = ranks_of(work.edits)
        if not ranks:
            return self.unchanged("no layer becomes two")
        place = _place(work)
        offers, refused = _wanted(place, ranks)
        if refused and not work.cuts.keep:
            name, why = next(iter(refused.items()))
            raise PlanError(f"{name} cannot become two layers: {why}")
        made = work.factors = _solved(place, offers)
        made.whole = refused
        whole = place.program.write(place.expressed, place.lowered, made.values)
        split = place.program.split(whole, made.pairs)
        work.lowered = work.program.adopted(work.lowered, split)
        note = f"{len(made.pairs)} layers became two"
        if not work.asked.verify:
            return self.done(note)
        gap = place.program.equal(whole, split, work.asked.seed)
        if gap is None:
            return self.done(f"{note}; too large to be run as a whole")
        return self.done(f"{note}; largest relative difference to the products {gap:.1e}")


@dataclass
class _Place:
    """The model in which layers become two.

    Attributes:
        program: The captured model.
        deps: Its analysis.
        samples: What its layers are looked at with; None where nothing is known of what they read.
        expressed: All of it.
        lowered: A copy of it.
        names: What the original calls its weights.
    """

    program: Program
    deps: Dependencies
    samples: Samples | None
    expressed: Expressed
    lowered: Lowered
    names: Mapping[str, str]


def _place(work: Work) -> _Place:
    """The original where nothing went, else the smaller model, captured anew."""
    samples = work.statistics().samples()
    names: Mapping[str, str] = {name: name for name in work.deps.source.weights}
    if not work.cuts.keep:
        return _Place(
            work.program, work.deps, samples, work.expressed, work.lowered, names
        )  # fmt: skip
    program, names = work.program.reopened(work.lowered)
    deps = couple(program.graph)
    expressed = program.express(narrow(deps, {}))
    samples = None if samples is None else carried(deps, samples)
    return _Place(program, deps, samples, expressed, program.lower(expressed), names)


def _wanted(place: _Place, ranks: Mapping[str, int]) -> tuple[dict[Offer, int], dict[str, str]]:
    """The layers that become two, and why others cannot, by the original's names.

    Args:
        place: The model.
        ranks: The rank of each weight, by the original's names.
    """
    own = {
        before: name for name, before in place.names.items() if name in place.deps.source.weights
    }
    refused = dict.fromkeys(ranks.keys() - own.keys(), "the smaller model holds no such weight")
    offers = ranked(place.deps, {own[name]: r for name, r in ranks.items() if name in own})
    whys = place.program.unsplit({offer.weight: offer.op for offer in offers})
    refused.update({place.names[weight.name]: why for weight, why in whys.items()})
    return {offer: r for offer, r in offers.items() if offer.weight not in whys}, refused


def _solved(place: _Place, ranks: dict[Offer, int]) -> Factors:
    """The two layers' weights, from what layers read as far as that is known."""
    offers = list(ranks)
    by_weight: dict[Value, int] = {offer.weight: rank for offer, rank in ranks.items()}
    if place.samples is None:
        return plainly(offers, by_weight)
    with progress("factoring") as advance:
        try:
            return Factoring(place.deps, offers, place.samples).factor(by_weight, advance)
        except (RuntimeError, IndexError, TypeError, ValueError) as error:
            out = plainly(offers, by_weight)
            why = f"the captured graph does not run on other inputs ({first_line(error)})"
            out.left.update({offer.weight.name: why for offer in offers})
            return out

"""ranks: a group of channels for each layer that can become two, beside the coupled groups.

The channels between the two layers are a group like any other: indices go from it, its loss curve
says at what loss, and costs are polynomials in its count. One index more than two layers may have
stands for the layer as it is, so that the first index to go turns one into two.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace

import numpy as np

from graphprune.compensation.calibration import Calibration
from graphprune.compensation.constants import LOSS_FLOOR, PASSED_LEAST, RANK_STEP
from graphprune.core.axes import Dim
from graphprune.core.edits import Edit
from graphprune.core.errors import BudgetError, OptionError, PlanError, first_line
from graphprune.core.graph import Value
from graphprune.core.groups import Counts, Dependencies, Group
from graphprune.core.progress import progress
from graphprune.core.within import Rank
from graphprune.costs import counted
from graphprune.costs.counted import Polynomial, monomials
from graphprune.costs.either import Alternative, Either
from graphprune.importance import Scores
from graphprune.importance.constants import NEEDED
from graphprune.lowrank.factoring import Factoring, Spectrum, alone, spectrum
from graphprune.lowrank.offers import Offer, Offers
from graphprune.sparsity.layers import find_layers
from graphprune.sparsity.patterns import Pattern

COUNTED = ("params", "macs")
"""Costs that tell one layer from two."""

_NAMED = 4  # layers that an error names
_GROUPED = "it is in groups, whose number may change"


@dataclass
class Ranks:
    """The layers that can become two, and how few channels there may be between the two.

    Attributes:
        deps: The analysis, with a group for each of these layers.
        offers: The layers, in the order of their groups.
        first: The place of the first of their groups.
        scores: What the removal of each index costs, for each of their groups.
        left: Weights that stay whole although two would cost less, with the reason.
        read: Whether it is known what layers read.
    """

    deps: Dependencies
    offers: list[Offer]
    first: int
    scores: list[Scores] = field(default_factory=list)
    left: dict[str, str] = field(default_factory=dict)
    read: bool = True

    def group(self, number: int) -> Group:
        """The group of one of the layers."""
        return self.deps.groups[self.first + number]

    def cost(self, name: str) -> Either:
        """A cost of the model, layers being one or two, whichever costs less.

        Raises:
            OptionError: It does not tell one layer from two.
        """
        if name not in COUNTED:
            raise OptionError(
                f"ranks are chosen for {' and '.join(COUNTED)}, not for {name}: no cost of this "
                "name tells one layer from two"
            )
        rest: Polynomial = getattr(counted, name)(self.deps)
        held = []
        for number, offer in enumerate(self.offers):
            group = self.group(number)
            one, two = _either(self.deps, offer, name, (group.axis,))
            rest = rest + one * -1.0
            held.append(Alternative(group.id, one, two))
        return Either(rest, held)

    def ranks(self, counts: Counts) -> dict[Value, int]:
        """Channels between the two layers, for those of which two cost less than one."""
        out = {}
        for number, offer in enumerate(self.offers):
            group = self.group(number)
            one, two = _either(self.deps, offer, "params", (group.axis,))
            if counts[group.id] < group.size and two(counts) < one(counts):
                out[offer.weight] = int(counts[group.id])
        return out


def _either(
    deps: Dependencies, offer: Offer, name: str, rank: Dim
) -> tuple[Polynomial, Polynomial]:
    """What one layer costs, and what the two do."""
    ids = {group.axis: group.id for group in deps.groups}
    products = (offer.params if name == "params" else offer.macs)(deps, rank)
    one, two = (Polynomial(monomials(side, ids), len(ids)) for side in products)
    return one, two


def ranked(deps: Dependencies, ranks: Mapping[str, int]) -> dict[Offer, int]:
    """The layers that become two by a plan, each with its rank.

    Args:
        deps: The analysis.
        ranks: The rank of each weight, by its name.

    Raises:
        PlanError: A rank is of a weight that no layer multiplies by, or higher than it can be.
    """
    if not ranks:
        return {}
    layers = {layer.weight.name: layer for layer in find_layers(deps, Pattern(), ()).layers}
    out = {}
    for name, rank in ranks.items():
        if name not in layers:
            raise PlanError(f"{name} cannot become two layers: no layer multiplies by it")
        offer = Offer(layers[name], layers[name].ops[0])
        if rank > offer.full:
            raise PlanError(f"{name}: ranks run from 1 to {offer.full}, not {rank}")
        out[offer] = int(rank)
    return out


def ranks_of(edits: Iterable[Edit]) -> dict[str, int]:
    """The ranks among edits, by the name of the weight."""
    return {edit.weight: edit.rank for edit in edits if isinstance(edit, Rank)}


def added(deps: Dependencies, counts: Counts, ranks: Mapping[Offer, int], name: str) -> float:
    """By how much the cost of a choice changes where layers become two.

    Args:
        deps: The analysis.
        counts: How many indices each coupled group keeps.
        ranks: Channels between the two layers that stand for one.
        name: The cost.
    """
    total = 0.0
    for offer, rank in ranks.items() if name in COUNTED else ():
        group = offer.group(len(deps.groups))
        both = replace(deps, groups=[*deps.groups, group])
        one, two = _either(both, offer, name, (group.axis,))
        given = np.append(counts, float(rank))
        total += two(given) - one(given)
    return total


def offered(
    deps: Dependencies,
    found: Offers,
    statistics: Calibration,
    widths: Sequence[Scores] | None = None,
) -> Ranks:
    """The ranks that may be chosen.

    Args:
        deps: The analysis.
        found: The layers that can become two.
        statistics: Of what they read.
        widths: Loss curves of the coupled groups, where their widths are chosen beside the ranks;
            else they stay as they are.

    Raises:
        BudgetError: No layer can become two, and no width can change.
        OptionError: Nothing tells how much widths count beside ranks.
    """
    left = dict(found.left)
    offers = list(found.offers)
    if widths is not None:  # groups may go, and their number is none of the axes known here
        left.update({o.weight.name: _GROUPED for o in offers if o.layer.view.groups > 1})
        offers = [offer for offer in offers if offer.layer.view.groups == 1]
    elif not offers:
        why = "; ".join(f"{name}: {reason}" for name, reason in list(left.items())[:_NAMED])
        raise BudgetError(f"no layer can become two ({why or 'all are too small'})", closest=0.0)
    beside = [] if widths is None else deps.groups
    groups = [offer.group(len(beside) + number) for number, offer in enumerate(offers)]
    out = Ranks(replace(deps, groups=[*beside, *groups]), offers, len(beside), left=left)
    spectra, out.read = seen(deps, offers, statistics)
    unit = max((held.whole for held in spectra), default=LOSS_FLOOR)
    if widths is not None:
        if statistics.unit is None or not (out.read or not offers):
            raise OptionError(
                "widths and ranks share a budget by their loss curves, and there are none "
                f"(compensation: {statistics.note}): pass data=, and leave importance at 'auto'"
            )
        unit = max(unit, statistics.unit)
        out.scores = [_in_unit(held, statistics.unit / unit) for held in widths]
    out.scores += [
        levels(held, group.size, unit) for held, group in zip(spectra, groups, strict=True)
    ]
    return out


def _in_unit(scores: Scores, share: float) -> Scores:
    """A loss curve in a larger unit; what is needed stays so."""
    needed = np.where(scores >= NEEDED, NEEDED, 0.0)
    found: Scores = (scores - needed) * share + needed
    return found


def seen(
    deps: Dependencies, offers: Sequence[Offer], statistics: Calibration
) -> tuple[list[Spectrum], bool]:
    """What each layer loses at every rank, and whether it is known what they read."""
    known: dict[Value, Spectrum] = {}
    samples = statistics.samples()
    if samples is not None:
        with progress("weighing ranks") as advance:
            try:
                known = Factoring(deps, offers, samples).spectra(advance)
            except (RuntimeError, IndexError, TypeError, ValueError) as error:
                why = f"the captured graph does not run on other inputs ({first_line(error)})"
                statistics.note = f"none: {why}"
    spectra = [
        known[offer.weight] if offer.weight in known else spectrum(alone(offer.layer))
        for offer in offers
    ]
    if known:  # the others count as the mean of those that are known
        mean = float(np.mean([held.whole for held in known.values()]))
        spectra = [
            held if offer.weight in known else replace(held, whole=mean)
            for offer, held in zip(offers, spectra, strict=True)
        ]
    else:
        spectra = [replace(held, whole=1.0) for held in spectra]
    return spectra, bool(known)


def levels(held: Spectrum, size: int, unit: float) -> Scores:
    """The level of every index of a group of ranks, as `compensation.curves` has it for widths.

    Args:
        held: What the layer loses at every rank.
        size: Indices of the group; all of them stand for the layer as it is.
        unit: The largest loss of any group.
    """
    lost = held.lost()[:size][::-1]  # once 1, 2, ... indices are gone
    passed = np.maximum(1 - lost, PASSED_LEAST)
    total = max(held.whole, LOSS_FLOOR)
    found = -np.log(passed) * total / max(unit, LOSS_FLOOR) + RANK_STEP * np.arange(size)
    out: Scores = found[::-1].copy()
    return out

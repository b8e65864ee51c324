"""estimate: about how long it takes to weigh ranks, and to factor layers, on one core."""

from __future__ import annotations

from collections.abc import Sequence

from graphprune.compensation.forecast import Forecast
from graphprune.core.groups import Dependencies
from graphprune.lowrank.factoring import Factoring
from graphprune.lowrank.offers import Offer
from graphprune.sparsity.estimate import gathering, stepping
from graphprune.statistics.constants import SECONDS_PER_PRODUCT

_PRODUCTS = 2  # of weights and second moments, for each layer
_EIGEN = 20  # times the cubed shorter side: an eigendecomposition, in double precision


def weighing(deps: Dependencies, offers: Sequence[Offer], found: Forecast | None) -> float:
    """Estimated seconds of the spectra.

    Args:
        deps: The analysis.
        offers: The layers.
        found: Of the samples; None where layers are looked at by their weights alone.
    """
    if found is None:
        return _decomposed(offers)
    layers = [offer.layer for offer in offers]
    return found.sensing + found.running + gathering(deps, layers, found.number) + _once(offers)


def solving(deps: Dependencies, offers: Sequence[Offer], found: Forecast | None) -> float:
    """Estimated seconds of the two layers' weights; arguments as for `weighing`.

    The original and the factored model run side by side.
    """
    if found is None:
        return _decomposed(offers)
    layers = [offer.layer for offer in offers]
    both = found.running + gathering(deps, layers, found.number)
    return found.sensing + 2 * both + 2 * _once(offers)


def _once(offers: Sequence[Offer]) -> float:
    layers = [offer.layer for offer in offers]
    return stepping(layers, _PRODUCTS, Factoring.narrow) + _decomposed(offers)


def _decomposed(offers: Sequence[Offer]) -> float:
    """Eigenvalues and eigenvectors of every layer."""
    return sum(_EIGEN * o.full**3 * o.layer.view.groups for o in offers) * SECONDS_PER_PRODUCT

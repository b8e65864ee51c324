"""factoring: the product of two thin matrices nearest to what a layer should compute.

With C = E[x xᵀ] of what a layer reads and d the weight of each of its outputs, the rank r that
loses least of `W x` is that of the first r eigenvectors U of `D W C Wᵀ D`, D = diag(d): the
projection `A B` with `A = D⁻¹ U`, `B = Uᵀ D W`. This is the truncated singular value decomposition
of `D W C^(1/2)` (Wang et al., SVD-LLM, ICLR 2025), without the root, and with every output counted
by what its error does to the model's results. What is lost is the sum of the other eigenvalues.

Where a layer reads fewer numbers than it has outputs, the same is done on the other side, with a
triangular root of C.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt
import torch

from graphprune.core.factors import Pair
from graphprune.core.graph import Value
from graphprune.core.groups import Dependencies
from graphprune.lowrank.offers import Offer
from graphprune.sparsity.fitting import Fitted, Fitting, finite
from graphprune.sparsity.layers import Layer, View
from graphprune.sparsity.solve import Problem
from graphprune.statistics.samples import Samples

_WIDE = 4096  # columns up to which double precision takes seconds
_TINY = 1e-30

Energies = npt.NDArray[np.float64]


@dataclass(frozen=True)
class Spectrum:
    """What a layer loses at every rank.

    Attributes:
        energies: What each further channel between the two layers saves, the most first.
        whole: What all of it counts in the model's results.
    """

    energies: Energies
    whole: float

    def lost(self) -> Energies:
        """The share that is lost at rank 0, 1, ..."""
        total = max(float(self.energies.sum()), _TINY)
        left = np.cumsum(self.energies[::-1])[::-1] / total
        return np.append(left, 0.0)


@dataclass
class Factors(Fitted):
    """Layers as two in a row.

    Attributes:
        pairs: Their weights.
        whole: Weights of layers that turned out to stay one, with the reason.
    """

    pairs: list[Pair] = field(default_factory=list)
    whole: dict[str, str] = field(default_factory=dict)


class Factoring(Fitting):
    """Factors the layers of a model by what they read.

    Args:
        deps: The analysis.
        offers: The layers.
        samples: Inputs to take statistics from.
        weighs: Whether outputs count by how much the model's results depend on them.
    """

    narrow = _WIDE

    def __init__(
        self, deps: Dependencies, offers: Sequence[Offer], samples: Samples, weighs: bool = True
    ) -> None:
        super().__init__(deps, [offer.layer for offer in offers], samples, weighs)
        self._offers = {offer.weight: offer for offer in offers}
        self._ranks: Mapping[Value, int] = {}
        self._out = Factors()

    def spectra(self, advance: Callable[[float], None] = lambda _: None) -> dict[Value, Spectrum]:
        """What each layer loses at every rank, as far as it is told what they read."""
        out: dict[Value, Spectrum] = {}

        def weigh(layer: Layer, problem: Problem, whole: float | None) -> None:
            out[layer.weight] = spectrum(problem, whole)

        self._visit(weigh, advance)
        return out

    def factor(
        self, ranks: Mapping[Value, int], advance: Callable[[float], None] = lambda _: None
    ) -> Factors:
        """Factor every layer.

        Args:
            ranks: Channels between the two, for each layer.
            advance: Called with the share of the work that is done.
        """
        self._ranks, self._out = ranks, Factors()
        self._fit(self._out.values, advance)
        return self._out

    def _settle(self, layer: Layer, problem: Problem) -> torch.Tensor:
        offer = self._offers[layer.weight]
        first, second = factored(problem, self._ranks[layer.weight])
        return note(self._out, offer, finite(first), finite(second))

    def _plainly(self, layer: Layer, why: str) -> None:
        plain(self._out, self._offers[layer.weight], self._ranks[layer.weight])
        self._out.left[layer.weight.name] = why


def plainly(offers: Sequence[Offer], ranks: Mapping[Value, int]) -> Factors:
    """Factor layers by their weights alone."""
    out = Factors()
    for offer in offers:
        plain(out, offer, ranks[offer.weight])
    return out


def plain(out: Factors, offer: Offer, rank: int) -> None:
    """Factor one layer by its weight alone."""
    note(out, offer, *factored(alone(offer.layer), rank))


def alone(layer: Layer) -> Problem:
    """A layer whose inputs are taken to be independent and equally large."""
    view = layer.view
    weight = layer.rows().double().view(view.groups, -1, view.columns)
    own = torch.eye(view.columns).to(weight).expand(view.groups, -1, -1)
    return Problem(weight, own, torch.ones_like(weight[:, :, 0]))


def spectrum(problem: Problem, whole: float | None = None) -> Spectrum:
    """What a layer loses at every rank.

    Args:
        problem: What it should compute, and from what.
        whole: What its relative error counts; None where the weights of its outputs say it all.
    """
    _, scaled, root = _scaled(problem)
    energies = torch.linalg.eigvalsh(_gram(problem, scaled, root)).clamp_min(0).flip(-1).sum(0)
    found: Energies = energies.double().cpu().numpy()
    return Spectrum(found, float(found.sum()) if whole is None else whole)


def factored(problem: Problem, rank: int) -> tuple[torch.Tensor, torch.Tensor]:
    """B and A of `y = A (B x)`: `groups x rank x columns` and `groups x outputs x rank`."""
    weights, scaled, root = _scaled(problem)
    kept = torch.linalg.eigh(_gram(problem, scaled, root)).eigenvectors[..., -rank:].flip(-1)
    if root is None:
        first, second = kept.mT @ scaled, kept / weights
    else:
        first = torch.linalg.solve_triangular(root.mT, kept, upper=True).mT
        second = problem.wanted @ root @ kept
    size = (first.norm(dim=2) / second.norm(dim=1).clamp_min(_TINY)).clamp_min(_TINY).sqrt()
    return first / size[:, :, None], second * size[:, None]


def _scaled(
    problem: Problem,
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor | None]:
    """D, D W, and a root of C where a layer reads fewer numbers than it has outputs."""
    weights = problem.counts.clamp_min(_TINY).sqrt()[..., None]
    scaled = problem.wanted * weights
    outputs, columns = scaled.shape[1:]
    return weights, scaled, torch.linalg.cholesky(problem.own) if columns < outputs else None


def _gram(problem: Problem, scaled: torch.Tensor, root: torch.Tensor | None) -> torch.Tensor:
    """The matrix whose eigenvalues are what each channel saves."""
    if root is None:
        return scaled @ problem.own @ scaled.mT
    seen = scaled @ root
    return seen.mT @ seen


def note(out: Factors, offer: Offer, first: torch.Tensor, second: torch.Tensor) -> torch.Tensor:
    """Write down two layers, and their product as the weight of the one; returns the product."""
    view, held = offer.layer.view, offer.weight.tensor
    groups, rank, _ = first.shape
    shape = list(view.shape)
    shape[1 - view.inner] = rank * (groups if view.inner else 1)
    thin = View(tuple(shape), view.inner, view.groups)
    first, second = (x.to(held.dtype).to(x) for x in (first, second))  # as they are stored
    product = second @ first
    laid = thin.weight(first.flatten(0, 1)).to(held.dtype)
    behind = second.flatten(0, 1).to(held.dtype)
    out.pairs.append(Pair(offer.weight, offer.op, laid, behind, groups))
    out.values[offer.weight] = view.weight(product.flatten(0, 1)).to(held.dtype)
    return product

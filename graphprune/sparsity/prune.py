"""prune: set numbers to zero, layer by layer, and let the others make up for them (`fitting`)."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt
import torch

from graphprune.core.graph import Value
from graphprune.core.groups import Dependencies
from graphprune.sparsity.fitting import Fitted, Fitting, finite
from graphprune.sparsity.layers import Layer
from graphprune.sparsity.patterns import Pattern
from graphprune.sparsity.solve import Problem, alternated, flat, settled
from graphprune.sparsity.spread import STEPS
from graphprune.statistics.samples import Samples

_PROBED = (0.25, 0.5, 0.75, 0.9)  # shares of a layer that are tried out for its loss curve
_BRIEF = 8  # steps of conjugate gradients of such a trial
TRIED = len(_PROBED) * (_BRIEF + 2)  # products of a layer's weights and second moments for it
_NOTHING = 1e-3  # of what a layer computes, less than which is as good as nothing

Curve = npt.NDArray[np.float64]


@dataclass
class Pruned(Fitted):
    """Sparse weights.

    Attributes:
        kept: Which numbers of each weight stay, in its shape.
    """

    kept: dict[Value, torch.Tensor] = field(default_factory=dict)


@dataclass(frozen=True)
class Manner:
    """How zeros are chosen.

    Attributes:
        importance: `"magnitude"`, `"wanda"`, `"obs"` or `"random"`.
        pattern: How they may lie.
        solves: Whether what stays makes up for them.
        by_row: Whether equally many go in each row.
        seed: For what is drawn.
    """

    importance: str
    pattern: Pattern
    solves: bool = True
    by_row: bool = False
    seed: int = 0

    def scores(self, rows: torch.Tensor, problem: Problem | None) -> torch.Tensor:
        """What each number of a matrix counts.

        Args:
            rows: The matrix.
            problem: What the layer should compute; None where that is not known.
        """
        if self.importance == "random":
            generator = torch.Generator().manual_seed(self.seed)
            return torch.rand(rows.shape, generator=generator)
        if problem is None or self.importance == "magnitude":
            return rows.square()
        if self.importance == "wanda":
            return flat(problem.activated())
        return flat(problem.saliencies())


def plainly(
    layers: Sequence[Layer],
    gone: Mapping[Value, int],
    manner: Manner,
    given: Mapping[Value, torch.Tensor] | None = None,
) -> Pruned:
    """Choose zeros by the weights alone.

    Args:
        layers: The layers.
        gone: How many units of each become zero.
        manner: How they are chosen.
        given: Which numbers of each weight stay, where that was decided before.
    """
    out = Pruned()
    for layer in layers:
        plain(out, layer, gone.get(layer.weight, 0), manner, (given or {}).get(layer.weight))
    return out


def plain(out: Pruned, layer: Layer, gone: int, manner: Manner, given: torch.Tensor | None) -> None:
    """Choose the zeros of one layer by its weights alone."""
    rows = layer.rows()
    if given is not None:
        kept = layer.view.rows(given.float()).bool()
    else:
        kept = manner.pattern.choose(manner.scores(rows, None), gone, manner.by_row)
    note(out, layer, rows * kept, kept)


def note(out: Pruned, layer: Layer, rows: torch.Tensor, kept: torch.Tensor) -> None:
    """Write down a sparse matrix."""
    held = layer.weight.tensor
    out.kept[layer.weight] = layer.view.weight(kept)
    out.values[layer.weight] = layer.view.weight(rows).to(held.dtype)


class Pruner(Fitting):
    """Prunes the layers of a model from what they read.

    Args:
        deps: The analysis.
        layers: The layers.
        samples: Inputs to take statistics from.
        manner: How zeros are chosen.
        weighs: Whether outputs count by how much the model's results depend on them.
    """

    def __init__(
        self,
        deps: Dependencies,
        layers: Sequence[Layer],
        samples: Samples,
        manner: Manner,
        weighs: bool = True,
    ) -> None:
        super().__init__(deps, layers, samples, weighs)
        self._manner = manner
        self._gone: Mapping[Value, int] = {}
        self._given: Mapping[Value, torch.Tensor] = {}
        self._out = Pruned()

    # --- loss curves ------------------------------------------------------------------------

    def curves(self, advance: Callable[[float], None] = lambda _: None) -> dict[Value, Curve]:
        """What each layer loses once 1, 2, ... of `STEPS` parts of it are zero.

        It loses what its outputs' error counts in the results' own; as what gets through layers in
        a row is a product, its logarithm counts.
        """
        out: dict[Value, Curve] = {}

        def weigh(layer: Layer, problem: Problem, whole: float | None) -> None:
            out[layer.weight] = self._curve(problem, whole)

        self._visit(weigh, advance)
        most = max((float(curve[-1]) for curve in out.values()), default=1.0)
        return {weight: curve / max(most, 1e-300) for weight, curve in out.items()}

    def scores(
        self, advance: Callable[[float], None] = lambda _: None
    ) -> dict[Value, torch.Tensor]:
        """What each unit of each layer counts, by what the layers of the original read."""
        out: dict[Value, torch.Tensor] = {}

        def weigh(layer: Layer, problem: Problem, whole: float | None) -> None:
            found = self._manner.scores(layer.rows(), problem)
            out[layer.weight] = self._manner.pattern.units(found).float()

        self._visit(weigh, advance)
        return out

    def _curve(self, problem: Problem, whole: float | None) -> Curve:
        """The loss of the shares that are tried, and in between."""
        pattern = self._manner.pattern
        nothing = problem.error(torch.zeros_like(problem.wanted))
        scores = flat(problem.saliencies())
        units = pattern.units(scores).numel()
        lost = [0.0]
        for share in _PROBED:
            kept = pattern.choose(scores, int(share * units))
            tried = settled(problem, problem.wanted, kept, _BRIEF)
            lost.append(max(problem.error(tried) / max(nothing, 1e-300), lost[-1]))
        shares = np.arange(1, STEPS + 1) / STEPS
        # The logarithm of the error grows evenly in between; at zero there is none.
        at = np.log(np.maximum([*lost[1:], 1.0], 1e-12))
        curve = np.exp(np.interp(shares, [*_PROBED, 1.0], at))
        low = shares < _PROBED[0]
        curve[low] = lost[1] * (shares[low] / _PROBED[0]) ** 2
        unit = nothing if whole is None else whole
        found: Curve = -np.log(np.maximum(1 - curve, _NOTHING)) * unit
        return found

    # --- pruning ----------------------------------------------------------------------------

    def prune(
        self,
        gone: Mapping[Value, int],
        given: Mapping[Value, torch.Tensor] | None = None,
        advance: Callable[[float], None] = lambda _: None,
    ) -> Pruned:
        """Prune every layer.

        Args:
            gone: How many units of each become zero.
            given: Which numbers stay, where that was decided before.
            advance: Called with the share of the work that is done.
        """
        self._gone, self._given = gone, given or {}
        self._out = Pruned()
        self._fit(self._out.values, advance)
        return self._out

    def _settle(self, layer: Layer, problem: Problem) -> torch.Tensor | None:
        """Choose the zeros of a layer, and solve for the rest."""
        start, kept = self._chosen(layer, problem)
        if not self._manner.solves:
            rows = layer.rows()
            note(self._out, layer, rows * kept, kept)
            return None
        new = finite(settled(problem, start, kept))
        note(self._out, layer, flat(new), kept)
        return new

    def _chosen(self, layer: Layer, problem: Problem) -> tuple[torch.Tensor, torch.Tensor]:
        """Weights to start from, and which of them stay."""
        manner, gone = self._manner, self._gone.get(layer.weight, 0)
        known = self._given.get(layer.weight)
        if known is not None:
            return problem.wanted, layer.view.rows(known.to(problem.wanted)).bool()
        if manner.importance == "obs" and manner.solves:
            return alternated(problem, manner.pattern, gone)
        scores = manner.scores(layer.rows(), problem)
        return problem.wanted, manner.pattern.choose(scores, gone, manner.by_row)

    def _plainly(self, layer: Layer, why: str) -> None:
        """Zeros by the weights alone."""
        weight, manner = layer.weight, self._manner
        plain(self._out, layer, self._gone.get(weight, 0), manner, self._given.get(weight))
        if manner.solves:
            self._out.left[weight.name] = why


def sizes(layers: Collection[Layer], pattern: Pattern) -> npt.NDArray[np.int64]:
    """Units of each layer that can become zero."""
    return np.array([layer.size // pattern.cells for layer in layers], np.int64)

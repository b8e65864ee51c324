"""zeros: how many numbers of each layer become zero, and which, from what is known of them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace

import numpy as np
import torch

from graphprune.compensation.calibration import Calibration
from graphprune.core.errors import BudgetError, OptionError, first_line
from graphprune.core.graph import Value
from graphprune.core.groups import Dependencies
from graphprune.core.progress import progress
from graphprune.sparsity import spread
from graphprune.sparsity.estimate import gathering, stepping
from graphprune.sparsity.fitting import Fitting
from graphprune.sparsity.layers import Layer, Layers, find_layers
from graphprune.sparsity.patterns import Pattern
from graphprune.sparsity.prune import TRIED, Manner, Pruned, Pruner, plainly, sizes
from graphprune.sparsity.request import Sparsity
from graphprune.sparsity.solve import ROUNDS, SETTLING

_NAMED = 4  # layers that an error names
_READ = ("wanda", "obs")  # criteria that look at what layers read


@dataclass
class Zeros:
    """How many numbers of each layer become zero.

    Attributes:
        found: The layers that can become sparse, and why other weights are left alone.
        manner: How zeros are chosen.
        spread: How they are spread over the layers.
        pruner: Prunes from what layers read; None where nothing tells what they read.
        gone: Units of each layer that become zero.
    """

    found: Layers
    manner: Manner
    spread: str
    pruner: Pruner | None
    gone: dict[Value, int] = field(default_factory=dict)

    @property
    def number(self) -> int:
        """Numbers that become zero."""
        return sum(self.gone.values()) * self.manner.pattern.cells

    @property
    def note(self) -> str:
        """How they are chosen, in words."""
        return f"{self.manner.importance}, {self.manner.pattern.name}, {self.spread}"

    def prune(self, given: Mapping[Value, torch.Tensor] | None = None) -> Pruned:
        """Sparse weights.

        Args:
            given: Which numbers of each weight stay, where that was decided before.
        """
        layers = self.found.layers
        if self.pruner is None:
            return plainly(layers, self.gone, self.manner, given)
        with progress("pruning") as advance:
            try:
                return self.pruner.prune(self.gone, given, advance)
            except (RuntimeError, IndexError, TypeError, ValueError) as error:
                why = f"the captured graph does not run on other inputs ({first_line(error)})"
                out = plainly(layers, self.gone, self.manner, given)
                out.left.update({layer.weight.name: why for layer in layers})
                return out


def settled_on(
    deps: Dependencies, asked: Sparsity, statistics: Calibration, seed: int = 0
) -> Zeros:
    """Find the layers, and how their zeros are chosen and spread.

    Args:
        deps: The analysis.
        asked: What the caller asks for.
        statistics: Of what layers read.
        seed: For what is drawn.

    Raises:
        BudgetError: No layer can become sparse.
        OptionError: What is asked for needs statistics, and there are none.
    """
    found = find_layers(deps, asked.pattern, asked.keep)
    if not found.layers:
        left = list(found.left.items())[:_NAMED]
        why = "; ".join(f"{name}: {reason}" for name, reason in left)
        raise BudgetError(f"no layer can become sparse ({why or 'none multiplies by weights'})")
    looked = looked_at(asked, statistics)
    samples = looked.samples()
    reads = asked.importance in _READ
    if samples is None and (reads or asked.spread == "loss"):
        what = f"importance={asked.importance!r}" if reads else "spread='loss'"
        why = looked.note or "compensate is off"
        raise OptionError(
            f"{what} needs statistics of what layers read, and there are none ({why}): pass data="
        )
    manner, how = _manner(asked, statistics, samples is not None, seed)
    weighs = _weighs(manner, how)
    pruner = None if samples is None else Pruner(deps, found.layers, samples, manner, weighs)
    return Zeros(found, manner, how, pruner)


def looked_at(asked: Sparsity, statistics: Calibration) -> Calibration:
    """The statistics that zeros are chosen by; some criteria need them without compensation."""
    off = statistics.options.compensate is False
    return statistics.on() if off and asked.importance in _READ else statistics


def _manner(asked: Sparsity, statistics: Calibration, known: bool, seed: int) -> tuple[Manner, str]:
    """How zeros are chosen, and how they are spread.

    Args:
        asked: What the caller asks for.
        statistics: Of what layers read; tells whether the caller wants what stays to make up.
        known: Whether it is known what layers read.
        seed: For what is drawn.
    """
    importance, how = asked.importance, asked.spread
    if importance == "auto":
        importance = "obs" if known else "magnitude"
    if asked.pattern.share is not None:
        how = "uniform"
    elif how == "auto":
        how = {"obs": "loss", "wanda": "uniform"}.get(importance, "lamp")
    solves = known and statistics.options.compensate is not False
    manner = Manner(importance, asked.pattern, solves, seed=seed)
    return replace(manner, by_row=importance == "wanda" and how == "uniform"), how


def _weighs(manner: Manner, how: str) -> bool:
    """Whether outputs count by how much the model's results depend on them."""
    return manner.importance == "obs" or how == "loss"


def expected(
    deps: Dependencies, asked: Sparsity, statistics: Calibration, effort: str | float
) -> tuple[float, float]:
    """Estimated seconds, on one core, of spreading the zeros and of choosing them.

    Args:
        deps: The analysis.
        asked: What the caller asks for.
        statistics: Of what layers read.
        effort: As for `graphprune.plan_sparsity`.
    """
    looked = looked_at(asked, statistics)
    layers = find_layers(deps, asked.pattern, asked.keep).layers
    found = looked.forecast(effort)
    if found is None:
        return 0.0, 0.0
    manner, how = _manner(asked, statistics, True, 0)
    seen = found.running + gathering(deps, layers, found.number)
    spreading = found.sensing if _weighs(manner, how) else 0.0
    if how == "loss":
        spreading += seen + stepping(layers, TRIED, Fitting.narrow)
    elif manner.importance in _READ and how in ("lamp", "global"):
        spreading += seen + stepping(layers, 1, Fitting.narrow)
    steps = ROUNDS * (manner.importance == "obs") + SETTLING * manner.solves
    return spreading, 2 * seen + stepping(layers, steps, Fitting.narrow)


def fitted(
    deps: Dependencies, masks: Mapping[Value, torch.Tensor], statistics: Calibration
) -> Pruned:
    """Sparse weights for masks that were decided before.

    Args:
        deps: The analysis.
        masks: Which numbers of each weight stay.
        statistics: Of what layers read.
    """
    found = find_layers(deps, Pattern(), ())
    found.layers = [layer for layer in found.layers if layer.weight in masks]
    samples = statistics.samples()
    manner = Manner("magnitude", Pattern(), samples is not None)
    pruner = None
    if samples is not None:
        pruner = Pruner(deps, found.layers, samples, manner, weighs=False)
    out = Zeros(found, manner, "", pruner).prune(masks)
    for value, kept in masks.items():
        if value not in out.kept:  # no operation reads it as a matrix
            out.kept[value] = kept
            out.values[value] = value.tensor.detach() * kept.to(value.tensor.device)
    return out


def share_out(zeros: Zeros, ratio: float) -> None:
    """Spread zeros over the layers.

    Args:
        zeros: The layers; gets how much of each goes.
        ratio: The share of all numbers that becomes zero.

    Raises:
        BudgetError: So many cannot go.
    """
    layers, manner = zeros.found.layers, zeros.manner
    each = sizes(layers, manner.pattern)
    total = round(ratio * int(each.sum()))
    if not total:
        raise BudgetError(f"a ratio of {ratio:g} is less than one of {each.sum():,} numbers")
    how = zeros.spread
    if manner.pattern.share is not None:
        counts = np.array([round(size * ratio) for size in each])
    elif how == "uniform":
        counts = spread.uniform(each, total)
    elif how == "erk":
        counts = spread.erk([layer.view.shape for layer in layers], each, total)
    elif how == "loss":
        counts = _by_loss(zeros, each, total)
    else:
        scores = _scores(zeros)
        scores = [spread.lamp(x) for x in scores] if how == "lamp" else scores
        counts = spread.least(scores, total)
    zeros.gone = {layer.weight: int(n) for layer, n in zip(layers, counts, strict=True)}


def _scores(zeros: Zeros) -> list[torch.Tensor]:
    """One score for each unit of each layer."""
    layers, manner = zeros.found.layers, zeros.manner
    reads = zeros.pruner is not None and manner.importance in ("wanda", "obs")
    known = zeros.pruner.scores() if reads and zeros.pruner is not None else {}
    return [
        known[layer.weight]
        if layer.weight in known
        else manner.pattern.units(manner.scores(layer.rows(), None))
        for layer in layers
    ]


def _by_loss(zeros: Zeros, each: spread.Counts, total: int) -> spread.Counts:
    """By loss curves; a layer of which there is none goes along with the others."""
    assert zeros.pruner is not None
    with progress("weighing layers") as advance:
        curves = zeros.pruner.curves(advance)
    layers: list[Layer] = zeros.found.layers
    told = np.array([layer.weight in curves for layer in layers])
    if not told.any():
        return spread.uniform(each, total)
    share = total / int(each.sum())
    counts = np.zeros(len(layers), np.int64)
    counts[~told] = np.floor(each[~told] * share)
    held = [curves[layer.weight] for layer in layers if layer.weight in curves]
    counts[told] = spread.priced(held, each[told], total - int(counts.sum()))
    return counts

"""Agreement: how far a smaller model's answers are from the original's, in numbers."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch

CLOSE, POOR = 0.9, 0.5  # shares from which on agreement needs no word, and below which it is low
_DECIDED = 0.9  # of the answers that may be one and the same, or equal answers tell nothing
_CONSTANT = 1e-10  # of a result's square: less variation is rounding


@dataclass(frozen=True)
class Agreement:
    """How far a smaller model answers as the original does, on inputs that no step has seen.

    Attributes:
        kept: Share of the outputs' variation that is kept: 1 - sum (y - z)² / sum (y - mean y)²
            for the original's outputs y and the smaller model's z, the mean taken over the inputs;
            of the output where it is lowest. Of outputs that are whole numbers, the share that is
            equal. 0 where the smaller model does no better than a constant.
        same: Share of equal answers, where outputs are scores of classes or tokens: the place of
            the largest; None where they are not, or the original answers alike throughout.
        inputs: How many inputs there were.
        source: What they are: `"inputs held out of data"`, or what they were made as.
        real: Whether they are the caller's data.
        output: The number of the output that `kept` speaks of, where there are several.
    """

    kept: float
    same: float | None
    inputs: int
    source: str
    real: bool
    output: int | None = None

    @property
    def share(self) -> float:
        """The number to look at first: equal answers on real inputs, else what outputs keep.

        Made inputs lie near the borders of classes, where answers change at the least touch.
        """
        return self.same if self.real and self.same is not None else self.kept

    def sentence(self) -> str:
        """The agreement in words, the number to look at first ahead."""
        where = f" of output {self.output}" if self.output is not None else ""
        kept = f"outputs keep {self.kept:.1%} of their variation{where}"
        same = None if self.same is None else f"the same answer for {self.same:.1%}"
        if same is None:
            return f"{kept} on {self.inputs} {self.source}"
        first, second = (same, kept) if self.real else (kept, same)
        joint = " of" if self.real else " on"
        return f"{first}{joint} {self.inputs} {self.source}; {second}"


def compared(
    before: Sequence[Sequence[torch.Tensor]],
    after: Sequence[Sequence[torch.Tensor]],
    scores: Sequence[bool],
) -> tuple[float, float | None, int | None] | None:
    """Compare two models' results.

    Args:
        before: For each chunk of inputs the original's results, samples first.
        after: The smaller model's.
        scores: Which results hold scores of classes, in their last dimension.

    Returns:
        What is kept, the share of equal answers, and the number of the output where the least is
        kept, if there are several; None where no result can be compared.
    """
    kept: dict[int, float] = {}
    same: float | None = None
    for number, (old, new) in enumerate(
        zip(zip(*before, strict=True), zip(*after, strict=True), strict=False)
    ):
        if any(a.shape != b.shape for a, b in zip(old, new, strict=True)):
            continue  # as many results as the values say: boxes that were found
        a, b = _rows(old), _rows(new)
        if a is None or b is None:
            continue
        kept[number] = _kept(a, b)
        if same is None and number < len(scores) and scores[number]:
            same = _same(a, b)
    if not kept:
        return None
    worst = min(kept, key=lambda number: kept[number])
    return kept[worst], same, worst if len(kept) > 1 else None


def _rows(chunks: Sequence[torch.Tensor]) -> torch.Tensor | None:
    """Results of all chunks, one sample a row; None where their shapes differ."""
    rows = [x if x.dim() else x[None] for x in chunks]
    if len({x.shape[1:] for x in rows}) > 1 or not sum(len(x) for x in rows):
        return None
    out = torch.cat([x.detach().cpu() for x in rows])
    return torch.view_as_real(out) if out.is_complex() else out


def _kept(a: torch.Tensor, b: torch.Tensor) -> float:
    if not a.is_floating_point():
        return float((a == b).double().mean())
    a, b = a.double(), b.double()
    known = torch.isfinite(a)
    if not bool((torch.isfinite(b) | ~known).all()):
        return 0.0
    a, b = torch.where(known, a, 0.0), torch.where(known, b, 0.0)
    error = float((a - b).square().sum())
    whole = float(a.square().sum())
    variation = 0.0
    if len(a) > 1:  # the mean is of these very inputs: Bessel's correction
        variation = float((a - a.mean(0)).square().sum()) * len(a) / (len(a) - 1)
    total = variation if variation > _CONSTANT * whole else whole
    if total == 0:
        return float(error == 0)
    return max(1 - error / total, 0.0)


def _same(a: torch.Tensor, b: torch.Tensor) -> float | None:
    first, second = a.argmax(-1).flatten(), b.argmax(-1).flatten()
    if int(first.bincount().max()) > _DECIDED * len(first):
        return None
    return float((first == second).double().mean())

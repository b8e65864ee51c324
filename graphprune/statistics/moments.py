"""First and second moments, accumulated chunk by chunk."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import torch

from graphprune.statistics.constants import (
    ROWS_ENOUGH,
    ROWS_PER_CHANNEL,
    ROWS_TOGETHER,
    SCARCITY,
    TINY,
)
from graphprune.statistics.order import by_sample


def thinned(rows: torch.Tensor, share: float) -> torch.Tensor:
    """Evenly spaced rows.

    Args:
        rows: `groups x rows x channels`.
        share: Which share of the rows is enough: 0.25 takes every fourth.
    """
    step = max(int(1 / share), 1)
    return rows[:, ::step] if step > 1 else rows


def share_of(rows: int, width: int) -> float:
    """The share of the rows that is enough to estimate the covariance of `width` channels."""
    return min(max(ROWS_PER_CHANNEL * width, ROWS_ENOUGH) / max(rows, 1), 1.0)


def widest(x: torch.Tensor) -> torch.Tensor:
    """Numbers in double precision, complex ones as such."""
    return x.to(torch.complex128 if x.is_complex() else torch.float64)


def singly(x: torch.Tensor) -> torch.Tensor:
    """Numbers in single precision, complex ones as such."""
    return x.to(torch.complex64 if x.is_complex() else torch.float32)


def _square(x: torch.Tensor) -> torch.Tensor:
    """|x|², element by element."""
    return (x * x.conj()).real if x.is_complex() else x.square()


def _diagonal(x: torch.Tensor) -> torch.Tensor:
    """The diagonals of matrices, which are real."""
    return x.diagonal(dim1=1, dim2=2).real


class Moments:
    """Means and covariances of targets y and inputs x that are observed together.

    For least squares of y on x. Products are taken in the precision of the rows, about a first
    estimate of the means (so that large means do not cancel digits), and summed in float64.

    Where rows are few, an estimate can be improved by correlations that are known otherwise
    (`expect`), and a ridge is needed (`scarcity`).

    Args:
        worth: What one row tells, as a share of a row of real data; 1 for real data.

    Attributes:
        rows: Number of rows added.
    """

    def __init__(self, worth: float = 1.0) -> None:
        self.rows = 0
        self._shift: tuple[torch.Tensor, torch.Tensor] | None = None
        self._sums: tuple[torch.Tensor, torch.Tensor] | None = None
        self._cross: torch.Tensor | None = None
        self._own: torch.Tensor | None = None
        self._squares: torch.Tensor | None = None
        self._samples: list[torch.Tensor] = []
        self._alone: torch.Tensor | None = None
        self._worth = worth
        self._expected: tuple[torch.Tensor, torch.Tensor] | None = None

    def sampled(self, inputs: torch.Tensor, size: int | None, after: int | None = None) -> None:
        """Record the mean of each sample's rows, from which `scarcity` counts independent rows.

        Args:
            inputs: All rows, added or not: `groups x rows x channels`.
            size: Number of samples; None where each row counts as one, unless it is zero.
            after: Rows behind each sample; None where rows lie sample after sample.
        """
        rows = inputs.shape[1]
        if size is None:
            found = (inputs != 0).any(2).sum(1).double()
            self._alone = found if self._alone is None else self._alone + found
            return
        if rows and rows % (size * (after or 1)) == 0:
            self._samples.append(by_sample(inputs, size, after).mean(2))

    def add(self, targets: torch.Tensor, inputs: torch.Tensor) -> None:
        """Add rows.

        Args:
            targets: y, `groups x rows x targets`.
            inputs: x, `groups x rows x inputs`; the same tensor where only Cov(x) is wanted.
        """
        if self._shift is None:
            self._shift = targets.mean(1, keepdim=True), inputs.mean(1, keepdim=True)
        same = targets is inputs
        x = inputs - self._shift[1]
        y = x if same else targets - self._shift[0]
        sums = widest(y.sum(1)), widest(x.sum(1))
        own = x.mT @ x.conj()
        cross = own if same else y.mT @ x.conj()
        squares = _diagonal(own).clone() if same else _square(y).sum(1)
        self.rows += targets.shape[1]
        if self._sums is None or self._own is None or self._cross is None:
            self._sums, self._own, self._squares = sums, widest(own), squares.double()
            self._cross = self._own if same else widest(cross)
            return
        self._sums = self._sums[0] + sums[0], self._sums[1] + sums[1]
        self._own += own
        assert self._squares is not None
        self._squares += squares
        if not same:
            self._cross += cross

    def scarcity(self) -> torch.Tensor:
        """The ridge that a fit to these rows needs, as a share of the inputs' mean variance.

            scarcity = SCARCITY * channels / (independent rows * worth)

        Rows of one sample resemble each other, so they count less than rows of different samples
        (the design effect: Kish, Survey Sampling, 1965):

            independent rows = samples * (variance of rows) / (variance of sample means),

        between the number of samples and the number of rows.

        Example:
            64 channels seen at 10 x 10 positions of 8 images. If each image is flat, there are 8
            independent rows, and the scarcity is 0.15 * 64 / 8 = 1.2. If positions are independent,
            there are 800, and it is 0.012.

        Returns:
            One number for each group; zero where samples were not told apart.
        """
        assert self._own is not None and self._sums is not None and self._squares is not None
        groups, channels, _ = self._own.shape
        if self._alone is not None:
            return SCARCITY * channels / (self._alone.clamp_min(1.0) * self._worth)
        if not self._samples:
            return self._squares.new_zeros(groups)
        means = widest(torch.cat(self._samples, 1))
        power = _diagonal(self._own) / self.rows
        inside = (power - _square(self._sums[1] / self.rows)).mean(1)
        between = means.var(1, unbiased=False).mean(1)
        samples = means.shape[1]
        effective = (samples * inside / between.clamp_min(TINY)).clamp(samples, self.rows)
        return SCARCITY * channels / (effective * self._worth)

    def means(self) -> tuple[torch.Tensor, torch.Tensor]:
        """E[y] and E[x], `groups x channels` each."""
        assert self._shift is not None and self._sums is not None
        first, second = (
            widest(shift[:, 0]) + total / self.rows
            for shift, total in zip(self._shift, self._sums, strict=True)
        )
        return first, second

    def power(self, central: bool) -> torch.Tensor:
        """The variance of each target, or its second moment E[y²]: `groups x targets`.

        Args:
            central: Whether moments are about the means.
        """
        assert self._sums is not None and self._squares is not None
        found = self._squares / self.rows - _square(self._sums[0] / self.rows)
        return found if central else found + _square(self.means()[0])

    def expect(self, correlations: torch.Tensor, kept: torch.Tensor | None = None) -> None:
        """Give correlations that are known without rows; `second` blends them in.

        Args:
            correlations: Of the targets, `groups x targets x targets`.
            kept: Positions of the inputs among the targets; None where they are the same.
        """
        own = correlations if kept is None else correlations[:, kept][:, :, kept]
        self._expected = (correlations if kept is None else correlations[:, :, kept]), own

    def second(self, central: bool) -> tuple[torch.Tensor, torch.Tensor]:
        """Cov(y, x) and Cov(x), or E[y xᴴ] and E[x xᴴ].

        Args:
            central: Whether moments are about the means.

        Returns:
            `groups x targets x inputs` and `groups x inputs x inputs`; one tensor twice where
            targets and inputs are the same.
        """
        assert self._sums is not None and self._own is not None and self._cross is not None
        dy, dx = (total / self.rows for total in self._sums)
        same = self._cross is self._own

        def about(total: torch.Tensor, dy: torch.Tensor) -> torch.Tensor:
            right = dx.conj()[:, None]
            return torch.baddbmm(total, dy[:, :, None], right, beta=1 / self.rows, alpha=-1.0)

        own = about(self._own, dx)
        cross = own if same else about(self._cross, dy)
        if self._expected is not None:
            cross, own = self._drawn(cross, own)
        if not central:
            my, mx = self.means()
            own = own.baddbmm(mx[:, :, None], mx.conj()[:, None])
            cross = own if same else cross.baddbmm(my[:, :, None], mx.conj()[:, None])
        return cross, own

    def _drawn(self, cross: torch.Tensor, own: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Covariances, shrunk towards the expected correlations where rows are few.

        With s the scarcity, the expected ones get the share s / (1 + s); variances stay as
        observed (shrinkage towards a target: Ledoit & Wolf, 2004).
        """
        assert self._expected is not None
        scarcity = self.scarcity()
        share = (scarcity / (1 + scarcity))[:, None, None]
        across = own.diagonal(dim1=1, dim2=2).clamp_min(0.0).sqrt()[:, None]
        drawn = own.lerp(self._expected[1].to(own) * across.mT * across, share)
        if cross is own:
            return drawn, drawn
        down = self.power(central=True).clamp_min(0.0).sqrt()[:, :, None]
        return cross.lerp(self._expected[0].to(own) * down * across, share), drawn


def observed(
    pairs: Iterable[tuple[torch.Tensor, torch.Tensor]],
    size: int | None,
    into: Moments,
    after: int | None = None,
) -> Moments:
    """Add rows to moments, evenly spaced ones where there are more than needed.

    Args:
        pairs: Targets and inputs of each chunk, `groups x rows x channels`.
        size: Number of samples in a chunk; None where each row counts as one, unless it is zero.
        into: The moments they are added to.
        after: Rows behind each sample; None where rows lie sample after sample.

    Returns:
        `into`.
    """
    pairs = list(pairs)
    total = sum(y.shape[1] for y, _ in pairs)
    share = share_of(total, max((x.shape[2] for _, x in pairs), default=1))
    held: list[tuple[torch.Tensor, torch.Tensor]] = []
    for number, (targets, inputs) in enumerate(pairs, 1):
        into.sampled(inputs, size, after)
        fewer = thinned(inputs, share)
        held.append((fewer if targets is inputs else thinned(targets, share), fewer))
        if number == len(pairs) or sum(x.shape[1] for _, x in held) >= ROWS_TOGETHER:
            into.add(*_joined(held))
            held = []
    return into


def _joined(
    pairs: Sequence[tuple[torch.Tensor, torch.Tensor]],
) -> tuple[torch.Tensor, torch.Tensor]:
    """Several pairs as one: a product of many rows is faster than many products of few."""
    if len(pairs) == 1:
        return pairs[0]
    inputs = torch.cat([x for _, x in pairs], 1)
    same = all(y is x for y, x in pairs)
    return inputs if same else torch.cat([y for y, _ in pairs], 1), inputs

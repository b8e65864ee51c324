"""Means and covariances, accumulated chunk by chunk."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import torch

_ROWS = 32  # rows that are looked at for each channel; more tell little
_FEWEST = 8192
_SCARCE = 0.15
_SMALL = 1e-30


def thinned(rows: torch.Tensor, share: float) -> torch.Tensor:
    """Evenly spaced rows of `groups x rows x channels`."""
    step = max(int(1 / share), 1)
    return rows[:, ::step] if step > 1 else rows


def share_of(rows: int, width: int) -> float:
    """Which share of the rows is enough to estimate a covariance of a certain width."""
    return min(max(_ROWS * width, _FEWEST) / max(rows, 1), 1.0)


class Moments:
    """First and second moments of two sets of channels observed together.

    Products are taken in the operands' precision about a first estimate of the means, and summed
    in float64.

    Args:
        worth: What a row tells, as a share of one of the kind that is to be foretold.

    Attributes:
        rows: Number of rows seen.
    """

    def __init__(self, worth: float = 1.0) -> None:
        self.rows = 0
        self._shift: tuple[torch.Tensor, torch.Tensor] | None = None
        self._sums: tuple[torch.Tensor, torch.Tensor] | None = None
        self._cross: torch.Tensor | None = None
        self._own: torch.Tensor | None = None
        self._squares: torch.Tensor | None = None
        self._samples: list[torch.Tensor] = []
        self._worth = worth
        self._expected: tuple[torch.Tensor, torch.Tensor] | None = None

    def sampled(self, inputs: torch.Tensor, size: int) -> None:
        """Take note of how much samples differ; of all rows, those not added too.

        Args:
            inputs: `groups x rows x channels`, the rows of one sample behind each other.
            size: How many samples they are of.
        """
        groups, rows, channels = inputs.shape
        if rows and rows % size == 0:
            self._samples.append(inputs.reshape(groups, size, -1, channels).mean(2))

    def add(self, targets: torch.Tensor, inputs: torch.Tensor) -> None:
        """Add rows: `groups x rows x targets` and `groups x rows x inputs`."""
        if self._shift is None:
            self._shift = targets.mean(1, keepdim=True), inputs.mean(1, keepdim=True)
        same = targets is inputs
        x = inputs - self._shift[1]
        y = x if same else targets - self._shift[0]
        sums = y.sum(1).double(), x.sum(1).double()
        own = x.transpose(1, 2) @ x
        cross = own if same else y.transpose(1, 2) @ x
        squares = own.diagonal(dim1=1, dim2=2).clone() if same else y.square().sum(1)
        self.rows += targets.shape[1]
        if self._sums is None or self._own is None or self._cross is None:
            self._sums, self._own, self._squares = sums, own.double(), squares.double()
            self._cross = self._own if same else cross.double()
            return
        self._sums = self._sums[0] + sums[0], self._sums[1] + sums[1]
        self._own += own
        assert self._squares is not None
        self._squares += squares
        if not same:
            self._cross += cross

    def scarcity(self) -> torch.Tensor:
        """By which share of their mean the inputs' variances are raised for want of rows.

        What is fitted to few rows foretells little of others. The share grows with inputs per
        row, of which those of one sample count the less the more alike they are (the design
        effect: Kish, Survey Sampling, 1965).

        Returns:
            One number for each group.
        """
        assert self._own is not None and self._sums is not None
        groups, channels, _ = self._own.shape
        if not self._samples:
            return self._own.new_zeros(groups)
        means = torch.cat(self._samples, 1).double()
        power = self._own.diagonal(dim1=1, dim2=2) / self.rows
        inside = (power - (self._sums[1] / self.rows).square()).mean(1)
        between = means.var(1, unbiased=False).mean(1)
        samples = means.shape[1]
        effective = (samples * inside / between.clamp_min(_SMALL)).clamp(samples, self.rows)
        return _SCARCE * channels / (effective * self._worth)

    def means(self) -> tuple[torch.Tensor, torch.Tensor]:
        """Means of targets and inputs, `groups x channels`."""
        assert self._shift is not None and self._sums is not None
        first, second = (
            shift[:, 0].double() + total / self.rows
            for shift, total in zip(self._shift, self._sums, strict=True)
        )
        return first, second

    def power(self, central: bool) -> torch.Tensor:
        """E[y²] of each target, `groups x channels`, about its mean or about zero."""
        assert self._sums is not None and self._squares is not None
        found = self._squares / self.rows - (self._sums[0] / self.rows).square()
        return found if central else found + self.means()[0].square()

    def expect(self, correlations: torch.Tensor, kept: torch.Tensor | None = None) -> None:
        """Let correlations that are known otherwise count for what rows are short of.

        Args:
            correlations: Of the targets, `groups x targets x targets`.
            kept: Which of the targets the inputs stand for; None where they are the same.
        """
        own = correlations if kept is None else correlations[:, kept][:, :, kept]
        self._expected = (correlations if kept is None else correlations[:, :, kept]), own

    def second(self, central: bool) -> tuple[torch.Tensor, torch.Tensor]:
        """E[y xᵀ] and E[x xᵀ], `groups x channels x channels`.

        Args:
            central: About the means (covariances), or about zero.
        """
        assert self._sums is not None and self._own is not None and self._cross is not None
        dy, dx = (total / self.rows for total in self._sums)
        same = self._cross is self._own

        def about(total: torch.Tensor, dy: torch.Tensor) -> torch.Tensor:
            return torch.baddbmm(total, dy[:, :, None], dx[:, None], beta=1 / self.rows, alpha=-1.0)

        own = about(self._own, dx)
        cross = own if same else about(self._cross, dy)
        if self._expected is not None:
            cross, own = self._drawn(cross, own)
        if not central:
            my, mx = self.means()
            own = own.baddbmm(mx[:, :, None], mx[:, None])
            cross = own if same else cross.baddbmm(my[:, :, None], mx[:, None])
        return cross, own

    def _drawn(self, cross: torch.Tensor, own: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Covariances, drawn towards those of the expected correlations for want of rows."""
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
    pairs: Iterable[tuple[torch.Tensor, torch.Tensor]], size: int, into: Moments
) -> Moments:
    """Moments of pairs of rows, thinned where there are plenty.

    Args:
        pairs: Rows of targets and of inputs, chunk by chunk.
        size: Samples in a chunk.
        into: What they are added to, and what is returned.
    """
    pairs = list(pairs)
    total = sum(y.shape[1] for y, _ in pairs)
    share = share_of(total, max((x.shape[2] for _, x in pairs), default=1))
    held: list[tuple[torch.Tensor, torch.Tensor]] = []
    for number, (targets, inputs) in enumerate(pairs, 1):
        into.sampled(inputs, size)
        fewer = thinned(inputs, share)
        held.append((fewer if targets is inputs else thinned(targets, share), fewer))
        if number == len(pairs) or sum(x.shape[1] for _, x in held) >= _FEWEST:
            into.add(*_joined(held))
            held = []
    return into


def _joined(
    pairs: Sequence[tuple[torch.Tensor, torch.Tensor]],
) -> tuple[torch.Tensor, torch.Tensor]:
    """One pair of rows; few rows at a time cost more than the products."""
    if len(pairs) == 1:
        return pairs[0]
    inputs = torch.cat([x for _, x in pairs], 1)
    same = all(y is x for y, x in pairs)
    return inputs if same else torch.cat([y for y, _ in pairs], 1), inputs

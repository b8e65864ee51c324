"""Means and covariances, accumulated chunk by chunk."""

from __future__ import annotations

from collections.abc import Iterable

import torch

_ROWS = 32  # rows that are looked at for each channel; more tell little
_FEWEST = 8192
_SCARCE = 0.03


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

    Attributes:
        rows: Number of rows seen.
    """

    def __init__(self) -> None:
        self.rows = 0
        self._shift: tuple[torch.Tensor, torch.Tensor] | None = None
        self._sums: tuple[torch.Tensor, torch.Tensor] | None = None
        self._cross: torch.Tensor | None = None
        self._own: torch.Tensor | None = None

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
        self.rows += targets.shape[1]
        if self._sums is None or self._own is None or self._cross is None:
            self._sums, self._own = sums, own.double()
            self._cross = self._own if same else cross.double()
            return
        self._sums = self._sums[0] + sums[0], self._sums[1] + sums[1]
        self._own += own
        if not same:
            self._cross += cross

    def scarcity(self) -> float:
        """By which share of their mean the inputs' variances are raised for want of rows.

        As few rows as channels explain everything, and foretell nothing: the share grows with
        the square of channels per row.
        """
        assert self._own is not None
        return _SCARCE * (self._own.shape[-1] / max(self.rows, 1)) ** 2

    def means(self) -> tuple[torch.Tensor, torch.Tensor]:
        """Means of targets and inputs, `groups x channels`."""
        assert self._shift is not None and self._sums is not None
        first, second = (
            shift[:, 0].double() + total / self.rows
            for shift, total in zip(self._shift, self._sums, strict=True)
        )
        return first, second

    def second(self, central: bool) -> tuple[torch.Tensor, torch.Tensor]:
        """E[y xᵀ] and E[x xᵀ], `groups x channels x channels`.

        Args:
            central: About the means (covariances), or about zero.
        """
        assert self._sums is not None and self._own is not None and self._cross is not None
        dy, dx = (total / self.rows for total in self._sums)
        my, mx = self.means()

        def about(total: torch.Tensor, *means: torch.Tensor) -> torch.Tensor:
            dy, dx, my, mx = (m.unsqueeze(2 - i % 2) for i, m in enumerate(means))
            out = torch.baddbmm(total, dy, dx, beta=1 / self.rows, alpha=-1.0)
            return out if central else out.baddbmm_(my, mx)

        own = about(self._own, dx, dx, mx, mx)
        return own if self._cross is self._own else about(self._cross, dy, dx, my, mx), own


def observed(pairs: Iterable[tuple[torch.Tensor, torch.Tensor]]) -> Moments:
    """Moments of pairs of rows, thinned where there are plenty."""
    out = Moments()
    pairs = list(pairs)
    total = sum(y.shape[1] for y, _ in pairs)
    share = share_of(total, max((x.shape[2] for _, x in pairs), default=1))
    for targets, inputs in pairs:
        out.add(thinned(targets, share), thinned(inputs, share))
    return out

"""Attributes of operations, once indices are gone."""

from __future__ import annotations

import torch
from torch import nn

import graphprune
from graphprune.core.cuts import narrow
from graphprune.core.indices import Indices


class Cropped(nn.Module):
    """Positions counted from the end, of the image and of the channels."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.b = nn.Conv2d(3, 8, 1), nn.Conv2d(3, 4, 1)
        self.c, self.d = nn.Conv2d(8, 2, 1), nn.Conv2d(4, 2, 1)

    def forward(self, x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        """All but the last of the rows; all but the second layer's channels, and these."""
        y = torch.cat([self.a(x), self.b(x)], 1)[:, :, :-1]
        return self.c(y[:, :-4]), self.d(y[:, -4:]), y.select(2, -1).mean(1)


def test_positions_from_the_end_move_with_what_stands_behind_them_alone() -> None:
    deps = graphprune.analyze(Cropped().eval(), torch.randn(2, 3, 6, 6))
    first, second = sorted(deps.groups, key=lambda group: -group.size)

    def changed(size: int, other: int) -> list[dict[str, int]]:
        kept: list[Indices] = [torch.arange(n).numpy() for n in (size, other)]
        cuts = narrow(deps, {first.axis: kept[0], second.axis: kept[1]})
        others = ("aten.conv2d", "aten.mean")  # a mean over fewer takes the share that stays
        return [attrs for op, attrs in cuts.attrs.items() if op.type not in others]

    assert (first.size, second.size) == (8, 4)
    assert changed(5, 4) == []
    assert changed(8, 3) == [{"end": -3}, {"start": -3}]

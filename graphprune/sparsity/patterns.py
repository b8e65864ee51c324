"""patterns: how zeros may lie in the matrix of a layer, and which of them cost least.

A matrix has one row for each output and one column for each number that is multiplied with an
input: those of one kernel position stand side by side, so that N:M and blocks run along channels,
as kernels for sparse matrices want them.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

import numpy as np
import torch

from graphprune.core.errors import OptionError

_BLOCK = re.compile(r"block(?::(\d+)x(\d+))?")
_RATIO = re.compile(r"(\d+):(\d+)")
_SIDE = 4  # of a block where none is named


@dataclass(frozen=True)
class Pattern:
    """How zeros may lie.

    Attributes:
        name: As the caller and a saved plan name it.
        height: Rows of a block that go together.
        width: Columns of a block that go together.
        kept: Of every `of` numbers side by side, how many stay; 0 where that is free.
        of: See `kept`.
    """

    name: str = "unstructured"
    height: int = 1
    width: int = 1
    kept: int = 0
    of: int = 0

    @property
    def share(self) -> float | None:
        """The share of zeros that the pattern itself says, or None."""
        return 1 - self.kept / self.of if self.of else None

    @property
    def cells(self) -> int:
        """Numbers that go together."""
        return self.height * self.width

    def refuses(self, outputs: int, channels: int) -> str:
        """Why it does not fit a layer, or nothing.

        Args:
            outputs: Of each group of the layer.
            channels: That each output reads, kernel positions apart.
        """
        if self.of and channels % self.of:
            return f"its {channels} channels are no multiple of {self.of}"
        if outputs % self.height or channels % self.width:
            return (
                f"its {outputs} outputs and {channels} channels are no multiples of "
                f"{self.height} and {self.width}"
            )
        return ""

    def units(self, scores: torch.Tensor) -> torch.Tensor:
        """Scores of what goes together: the sums over blocks.

        Args:
            scores: One for each number, `rows x columns`.
        """
        if self.cells == 1:
            return scores
        rows, columns = scores.shape
        blocks = scores.reshape(rows // self.height, self.height, columns // self.width, self.width)
        return blocks.sum((1, 3))

    def choose(self, scores: torch.Tensor, gone: int, by_row: bool = False) -> torch.Tensor:
        """Which numbers stay, `rows x columns`: all but the least.

        Args:
            scores: One for each number, `rows x columns`.
            gone: How many of `units` go; N:M says so itself.
            by_row: Whether equally many go in each row, as far as that is possible.
        """
        if self.of:
            parts = scores.reshape(len(scores), -1, self.of)
            top = parts.topk(self.kept, dim=2).indices
            return torch.zeros_like(parts, dtype=torch.bool).scatter_(2, top, True).view_as(scores)
        units = self.units(scores)
        kept = _least_by_row(units, gone) if by_row else _least(units, gone)
        if self.cells == 1:
            return kept
        return kept.repeat_interleave(self.height, 0).repeat_interleave(self.width, 1)

    def holds(self, kept: torch.Tensor) -> bool:
        """Whether zeros lie as they may.

        Args:
            kept: Which numbers stay, `rows x columns`.
        """
        if self.of:
            each = kept.reshape(len(kept), -1, self.of).sum(2)
            return bool((each <= self.kept).all())
        filled = self.units(kept.int())
        return bool(((filled == 0) | (filled == self.cells)).all())


def _least(scores: torch.Tensor, gone: int) -> torch.Tensor:
    """All but the so many least; of equal ones the first go."""
    if gone <= 0:
        return torch.ones_like(scores, dtype=torch.bool)
    flat = torch.nan_to_num(scores.flatten(), nan=torch.inf)
    last = min(gone, len(flat)) - 1
    edge = float(np.partition(flat.cpu().numpy(), last)[last])  # without sorting all
    kept = flat > edge
    equal = (flat == edge).nonzero()[:, 0]
    kept[equal[gone - int((flat < edge).sum()) :]] = True
    return kept.view_as(scores)


def _least_by_row(scores: torch.Tensor, gone: int) -> torch.Tensor:
    """All but the so many least, an equal number in each row, or one more."""
    rows, columns = scores.shape
    each, more = divmod(gone, rows)
    order = scores.argsort(dim=1, stable=True)
    kept = torch.ones_like(scores, dtype=torch.bool).scatter_(1, order[:, :each], False)
    if more and each < columns:
        following = order[:, each]
        cost = scores.gather(1, following[:, None])[:, 0]
        chosen = cost.argsort(stable=True)[:more]
        kept[chosen, following[chosen]] = False
    return kept


def pattern_of(given: str | Pattern) -> Pattern:
    """The pattern of a name: `"unstructured"`, `"2:4"` (2 of 4 stay), `"block:4x4"`.

    Raises:
        OptionError: There is no such pattern.

    Examples:
        >>> pattern_of("2:4").share
        0.5
        >>> pattern_of("block:8x1").cells
        8
    """
    if isinstance(given, Pattern):
        return given
    text = given if isinstance(given, str) else ""
    if text == "unstructured":
        return Pattern()
    if found := _RATIO.fullmatch(text):
        kept, of = map(int, found.groups())
        if not 0 < kept < of:
            raise OptionError(f"pattern {given!r}: of {of} numbers, 1 to {of - 1} can stay")
        return Pattern(text, kept=kept, of=of)
    if found := _BLOCK.fullmatch(text):
        height, width = (int(side or _SIDE) for side in found.groups())
        if not height or not width:
            raise OptionError(f"pattern {given!r}: a block has at least one row and one column")
        return Pattern(f"block:{height}x{width}", height, width)
    raise OptionError(
        f"no pattern {given!r}: choose 'unstructured', 'N:M' such as '2:4' (of every 4 numbers 2 "
        "stay), or 'block:HxW' such as 'block:4x4' (outputs x channels)"
    )

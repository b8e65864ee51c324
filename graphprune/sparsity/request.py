"""request: what the caller asks for, checked as it comes in."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from graphprune.core.errors import OptionError, nearest
from graphprune.sparsity.patterns import Pattern, pattern_of
from graphprune.sparsity.spread import SPREADS

IMPORTANCES = ("auto", "magnitude", "wanda", "obs", "random")
"""Which numbers go: `"magnitude"`: the least; `"wanda"`: those of least |w| ‖x‖, in every row
(Sun et al., ICLR 2024); `"obs"`: those without which the others make up best; `"auto"`: the same
where there are statistics, else the magnitude."""

FORMS = ("zeros", "masks", "semi_structured")
"""What comes out: plain zeros, masks of `torch.nn.utils.prune`, or PyTorch's 2:4 tensors."""

_NUMBERS = (int, float, np.integer, np.floating)
_HALF = 0.5
_SAME = 1e-9


@dataclass(frozen=True)
class Sparsity:
    """What the caller asks for.

    Attributes:
        ratio: Fraction of the numbers of all layers that become zero.
        pattern: How zeros may lie.
        importance: Which numbers go: a name in `IMPORTANCES`.
        spread: How zeros are spread over the layers: a name in `SPREADS`.
        keep: Name patterns of layers that stay; None for the usual ones.
    """

    ratio: float = _HALF
    pattern: Pattern = field(default_factory=Pattern)
    importance: str = "auto"
    spread: str = "auto"
    keep: Sequence[str] | None = None


def sparsity(
    ratio: Any, pattern: Any, importance: Any, spread: Any, keep: Sequence[str] | None = None
) -> Sparsity:
    """A checked request.

    Args:
        ratio: As for `Sparsity`; None for what the pattern says, else a half.
        pattern: A name.
        importance: As for `Sparsity`.
        spread: As for `Sparsity`.
        keep: As for `Sparsity`.

    Raises:
        OptionError: Names the option, and what it can be.
    """
    found = pattern_of(pattern)
    if ratio is None:
        ratio = _HALF if found.share is None else found.share
    if isinstance(ratio, bool) or not isinstance(ratio, _NUMBERS) or not 0 < ratio < 1:
        raise OptionError(f"ratio is the fraction that becomes zero, 0 < ratio < 1, not {ratio!r}")
    if found.share is not None and abs(ratio - found.share) > _SAME:
        raise OptionError(
            f"pattern {found.name!r} makes {found.share:.1%} of each layer zero, not {ratio:.1%}: "
            "leave out ratio, or choose pattern='unstructured'"
        )
    if found.share is not None and spread != "auto":
        raise OptionError(
            f"pattern {found.name!r} says how much of each layer goes: leave out spread"
        )
    for what, given, names in (
        ("importance", importance, IMPORTANCES), ("spread", spread, SPREADS),
    ):  # fmt: skip
        if not isinstance(given, str) or given not in names:
            raise OptionError(f"no {what} {given!r}: {nearest(given, names)}")
    return Sparsity(float(ratio), found, importance, spread, keep)

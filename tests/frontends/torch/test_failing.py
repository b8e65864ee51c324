"""Code that fails at new widths is named by its line, not by what torch says of it."""

from __future__ import annotations

import pytest
import torch
from torch import nn

import graphprune


class Attending(nn.MultiheadAttention):
    """Attention of a sequence to itself, by torch's own code."""

    def __init__(self) -> None:
        super().__init__(24, 4, batch_first=True)

    def forward(self, x: torch.Tensor) -> torch.Tensor:  # type: ignore[override]
        """A sequence that has attended to itself."""
        return super().forward(x, x, x)[0]


class Checking(nn.Module):
    """Code that takes no other width than 24."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """The same, doubled."""
        if x.shape[-1] != 24:
            raise ValueError("raw words")
        return 2 * x


class Attended(nn.Module):
    """Attention that is held, not inherited from."""

    def __init__(self) -> None:
        super().__init__()
        self.heads = nn.MultiheadAttention(24, 4, batch_first=True)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """A sequence that has attended to itself."""
        found: torch.Tensor = self.heads(x, x, x)[0]
        return found


@pytest.mark.parametrize(
    ("inner", "path", "words"),
    [
        (Attended, "1.heads", "of activation.py: "),
        (Attending, "1", "of test_failing.py: return super().forward(x, x, x)[0]"),
        (Checking, "1", 'of test_failing.py: raise ValueError("raw words")'),
    ],
)
def test_the_line_that_fails_is_told(inner: type[nn.Module], path: str, words: str) -> None:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(8, 24), inner(), nn.Linear(24, 4)).eval()
    x = torch.randn(2, 5, 8)
    plan = graphprune.plan(model, ratios={"0": 0.5}, example_inputs=x, round_to=1, compensate=False)
    plan.apply()
    why = plan.report.replaced[path]
    assert why.startswith("its code fails at the new widths in line ")
    assert words in why

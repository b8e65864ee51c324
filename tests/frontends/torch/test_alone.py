"""A module by itself: recorded or exported, its operations are the same."""

from __future__ import annotations

from typing import Any
from unittest.mock import Mock

import pytest
import torch
from torch import nn

import graphprune
from graphprune.frontends.torch import alone as module
from graphprune.frontends.torch import follow
from tests.frontends.torch.recording import recorded_here


class _Sized(nn.Module):
    """Numbers from the batch, the size of images, the type and the mode."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.last = nn.Conv2d(3, 8, 3), nn.Linear(8, 4)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.first(x) * (1 / len(x)) + torch.finfo(x.dtype).tiny
        x = nn.functional.dropout(x, 0.1, self.training)
        mean: torch.Tensor = self.last(x.flatten(2).sum(2) / x.shape[-1])
        keep, drop = mean.chunk(2, 1)
        return keep + 0.5 * drop[:, : x.shape[1] // 8]


class _Switching(_Sized):
    """Code that switches gradients off and on again."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        with torch.no_grad():
            scale = x.mean()
        return super().forward(x) * scale


def _found(net: nn.Module, monkeypatch: pytest.MonkeyPatch) -> list[list[tuple[Any, ...]]]:
    """What each capture of the module by itself gives while it is shrunk."""
    seen: list[list[tuple[Any, ...]]] = []

    class Watched(module.Alone):
        def traced(self, *args: Any, **kwargs: Any) -> list[module.Step] | None:
            steps = super().traced(*args, **kwargs)
            seen.append([step[:3] for step in steps or []])
            return steps

    monkeypatch.setattr(follow, "Alone", Watched)
    graphprune.shrink(net.eval(), 0.4, example_inputs=torch.randn(2, 3, 8, 8), compensate=False)
    return seen


@recorded_here
@pytest.mark.parametrize("kind", [_Sized, _Switching])
def test_recorded_and_exported_operations_are_alike(
    kind: type[nn.Module], monkeypatch: pytest.MonkeyPatch
) -> None:
    torch.manual_seed(0)
    net = kind()
    exports = Mock(side_effect=torch.export.export)
    monkeypatch.setattr(torch.export, "export", exports)
    recorded = _found(net, monkeypatch)
    refused = sum(not steps for steps in recorded)  # images of other channels
    assert exports.call_count == refused < len(recorded)
    switched = any(not grad for steps in recorded for _, _, grad in steps)
    assert switched == (kind is _Switching)
    monkeypatch.setattr(module, "trace", Mock(side_effect=RuntimeError("not followed")))
    assert _found(net, monkeypatch) == recorded
    assert exports.call_count == refused + len(recorded)

"""A clock for tests of latency: what a call takes follows from what it is called with."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn
from torch.utils import _pytree as pytree


def replace(monkeypatch: pytest.MonkeyPatch, cache: Path) -> None:
    """Put it in place of the real one, for as long as a test runs; tables are kept in `cache`."""
    monkeypatch.setenv("GRAPHPRUNE_CACHE", str(cache))
    monkeypatch.setattr("graphprune.choice.aim.AIM_ROUNDS", 2)
    # It never varies, so that two readings are as good as many.
    monkeypatch.setattr("graphprune.costs.latency.timing.LEAST_RUNS", 2)
    monkeypatch.setattr("graphprune.costs.latency.timing.ENOUGH_RUNS", 2)
    monkeypatch.setattr("graphprune.costs.latency.timing._once", _work)


def _work(call: Any, device: torch.device) -> float:
    """A nanosecond for each byte that a call takes in or gives back."""
    held = [*call.args, *call.keywords.values(), call()]
    if isinstance(call.func, nn.Module):
        held += call.func.parameters()
    tensors = [x for x in pytree.tree_leaves(held) if isinstance(x, torch.Tensor | np.ndarray)]
    return 1e-9 * sum(x.nbytes for x in tensors)

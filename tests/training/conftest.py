"""What several tests of training share."""

from __future__ import annotations

from typing import Any

import pytest
import torch

import graphprune
from tests.training.nets import INPUTS, cnn, train


@pytest.fixture(scope="module")
def pair() -> tuple[Any, Any]:
    """A trained network, and what is left of it without compensation."""
    model = cnn()
    train(model, torch.optim.Adam(model.parameters(), 1e-2), 60)
    model.eval()
    return model, graphprune.shrink(model, 0.6, example_inputs=INPUTS[:2], compensate=False)

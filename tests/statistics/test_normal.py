"""Functions of normal channels, against what is known of them."""

import math

import pytest
import torch

from graphprune.statistics.normal import Flow, Normal, flow_of, moments_of


def test_the_covariance_of_rectified_channels_is_the_arc_cosine_kernel():
    """Cho & Saul, Kernel methods for deep learning, 2009, of degree one, less the means."""
    for rho in (-0.9, -0.3, 0.0, 0.5, 0.9):
        flow = flow_of(Normal(torch.zeros(2), torch.tensor([[1.0, rho], [rho, 1.0]])), 1)
        found = moments_of(Flow(flow.base, flow.table.relu(), 1))
        kernel = (1 - rho**2) ** 0.5 + rho * (math.pi - math.acos(rho))
        wanted = (kernel - 1) / (2 * math.pi)
        assert float(found.covariance[0, 1]) == pytest.approx(wanted, abs=5e-3)
        assert float(found.covariance[0, 0]) == pytest.approx(0.5 - 0.5 / math.pi, abs=5e-3)
        assert found.mean.tolist() == pytest.approx([(2 * math.pi) ** -0.5] * 2, abs=5e-3)

"""What becomes of channels that are moved, selected, added or concatenated."""

from __future__ import annotations

from collections.abc import Sequence

import torch

from graphprune.compensation.constants import FOLLOWED_MOST, NUMBER_ROUNDING
from graphprune.statistics.normal import Flow, Normal, flow_of, moments_of


def arrived(flow: Flow, numbers: torch.Tensor) -> Flow | None:
    """The flow of channels whose numbers arrived in a value.

    Args:
        flow: The channels before.
        numbers: The number of the channel at each place of the value.

    Returns:
        The channels along the one dimension over which numbers vary. Where they vary over several,
        as halfway through a channel shuffle, a flow that holds the numbers. None where the
        operation did more than move channels.
    """
    whole = numbers.round()
    most = flow.table.shape[1] - 1
    if not whole.numel() or not torch.allclose(numbers, whole, atol=NUMBER_ROUNDING):
        return None
    if not 0 <= float(whole.min()) <= float(whole.max()) <= most:
        return None
    for at in range(whole.dim()):
        rows = whole.movedim(at, -1).reshape(-1, whole.shape[at])
        picks = rows[0].long()
        if len(picks) > 1 and bool((rows == rows[0]).all()):
            return _picked(flow, picks, at)
    return Flow(flow.base, flow.table, -1, whole)


def _picked(flow: Flow, picks: torch.Tensor, at: int) -> Flow | None:
    """Some channels of a flow, in another order; None where one is taken twice."""
    if len(set(picks.tolist())) < len(picks):
        return None
    if len(picks) == flow.table.shape[1] and bool((picks.diff() == 1).all()):
        return Flow(flow.base, flow.table, at)
    covariance = flow.base.covariance[picks][:, picks]
    base = Normal(flow.base.mean[picks], covariance, flow.base.age)
    return Flow(base, flow.table[:, picks], at)


def added(flows: Sequence[Flow]) -> Flow | None:
    """The sum of independent terms: means and covariances add up. The sum is treated as normal."""
    if any(flow.at != flows[0].at for flow in flows):
        return None
    terms = [moments_of(flow) for flow in flows]
    mean = torch.stack([term.mean for term in terms]).sum(0)
    covariance = torch.stack([term.covariance for term in terms]).sum(0)
    age = max(term.age for term in terms)
    return flow_of(Normal(mean, covariance, age), flows[0].at)


def joined(flows: Sequence[Flow]) -> Flow | None:
    """The concatenation of independent parts: a block-diagonal covariance."""
    if any(flow.at != flows[0].at for flow in flows):
        return None
    if sum(flow.table.shape[1] for flow in flows) > FOLLOWED_MOST:
        return None
    parts = [moments_of(flow) for flow in flows]
    mean = torch.cat([part.mean for part in parts])
    covariance = mean.new_zeros(len(mean), len(mean))
    start = 0
    for part in parts:
        end = start + len(part.mean)
        covariance[start:end, start:end] = part.covariance
        start = end
    age = max(part.age for part in parts)
    return flow_of(Normal(mean, covariance, age), flows[0].at)

"""Latency as a cost: measured kernels, tabled at the lengths that matter."""

from graphprune.costs.latency.backend import Backend, forward_seconds
from graphprune.costs.latency.cost import Latency
from graphprune.costs.latency.timing import Timer

__all__ = ["Backend", "Latency", "Timer", "forward_seconds"]

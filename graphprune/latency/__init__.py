"""Latency as a cost: measured kernels, tabled at the lengths that matter."""

from graphprune.latency.cost import Latency
from graphprune.latency.meet import meet
from graphprune.latency.timing import Timer, forward_seconds

__all__ = ["Latency", "Timer", "forward_seconds", "meet"]

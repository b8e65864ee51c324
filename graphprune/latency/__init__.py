"""Latency as a cost: measured kernels, tabled at the lengths that matter."""

from graphprune.latency.aim import meet
from graphprune.latency.backends import Backend, backend, forward_seconds
from graphprune.latency.cost import Latency
from graphprune.latency.timing import Timer

__all__ = ["Backend", "Latency", "Timer", "backend", "forward_seconds", "meet"]

"""Timing a call, on a machine that others use too."""

from __future__ import annotations

import time
from collections.abc import Callable

import torch


def least(work: Callable[[], object], runs: int = 3) -> float:
    """Least seconds of a call; of one thread, those that other processes did not take."""
    clock = time.thread_time if torch.get_num_threads() == 1 else time.perf_counter
    best = float("inf")
    for _ in range(runs):
        start = clock()
        work()
        best = min(best, clock() - start)
    return best

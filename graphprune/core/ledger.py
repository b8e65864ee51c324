"""How long each stage of a plan took."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import ParamSpec, TypeVar

P = ParamSpec("P")
R = TypeVar("R")


def timed(
    seconds: dict[str, float], stage: str, work: Callable[P, R], *args: P.args, **kwargs: P.kwargs
) -> R:
    """Run a stage and add its time to the ledger."""
    start = time.perf_counter()
    try:
        return work(*args, **kwargs)
    finally:
        seconds[stage] = seconds.get(stage, 0.0) + time.perf_counter() - start

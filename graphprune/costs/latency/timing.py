"""Timing calls on this machine; what was measured is kept on disk."""

from __future__ import annotations

import ctypes
import hashlib
import json
import os
import platform
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from statistics import median, quantiles
from typing import Any

import torch

from graphprune.core.errors import GraphPruneError
from graphprune.core.files import write_whole
from graphprune.costs.constants import (
    AGREEMENT,
    BUSY_PASS_SECONDS,
    BUSY_RUNS,
    BUSY_SECONDS,
    ENOUGH_RUNS,
    ENOUGH_SECONDS,
    LEAST_RUNS,
    LONGER,
    PASS_SECONDS,
    PASSES,
    RATIO_ERROR,
    WARM_UP,
)

Call = Callable[[], Any]
"""Something that is ready to run."""

_SCRATCH = 1 << 22  # floats written between runs: empties the caches as other operations do
_MMAP, _TRIM = -3, -1  # parameters of glibc's mallopt
_FREE = 1 << 30  # bytes that the allocator may hold
_LARGEST, _TRIMMED = 32 << 20, 64 << 20  # where glibc's own adaptive thresholds end


@contextmanager
def steady() -> Iterator[None]:
    """Keep glibc from returning memory to the system while times are taken.

    Whether it does so depends on what the process did before. That can cost a fifth of the time of
    a MobileNet, and would be mistaken for a gain of what is measured next.
    """
    try:
        libc = ctypes.CDLL(None)
        libc.mallopt(_MMAP, _LARGEST)
        libc.mallopt(_TRIM, _FREE)
    except (OSError, AttributeError, TypeError):  # another allocator
        yield
        return
    try:
        yield
    finally:
        libc.mallopt(_TRIM, _TRIMMED)
        libc.malloc_trim(0)


def machine() -> str:
    """What a measurement depends on besides the operation: processor, PyTorch, threads."""
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
        model = next((line for line in lines if line.startswith("model name")), "")
    except OSError:
        model = ""
    return "|".join(
        [platform.machine(), model or platform.processor(), torch.__version__,
         str(torch.get_num_threads())]
    )  # fmt: skip


def cache_folder() -> Path:
    """Where measurements are kept: `GRAPHPRUNE_CACHE`, else the user's cache folder."""
    home = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    return Path(os.environ.get("GRAPHPRUNE_CACHE") or Path(home) / "graphprune")


class Timer:
    """Measures calls of kernels, and remembers them between runs of the program.

    Attributes:
        measured: How many calls were measured, rather than known already.
        disturbed: The calls that took another time at each run: the machine is busy.
    """

    def __init__(self) -> None:
        name = hashlib.sha256(machine().encode()).hexdigest()[:16]
        self._path = cache_folder() / f"latency-{name}.json"
        self.measured = 0
        self.disturbed: set[str] = set()
        self._patience = 1
        try:
            self._known: dict[str, float] = json.loads(self._path.read_text(encoding="utf-8"))
        except (OSError, ValueError):  # no cache yet, or a broken one: measure anew
            self._known = {}

    def seconds(self, key: str, prepare: Callable[[], Call], device: torch.device) -> float:
        """Least wall time of a call over a few runs.

        Args:
            key: What the call does, on which shapes, with which library.
            prepare: Makes the call, where it has to be measured.
            device: Where it runs.
        """
        if key not in self._known:
            self._known[key], calm = _least(prepare(), device, self._patience)
            self.measured += 1
            if not calm:
                self.disturbed.add(key)
        return self._known[key]

    def forget(self) -> None:
        """Forget the calls that were disturbed, so that they are measured anew, and for longer."""
        self._known = self._lasting()
        self.disturbed.clear()
        self._patience *= LONGER

    def save(self) -> None:
        """Keep what was measured undisturbed.

        A folder that cannot be written only costs time next time.
        """
        try:
            self._path.parent.mkdir(parents=True, exist_ok=True)
            write_whole(self._path, json.dumps(self._lasting()).encode())
        except (OSError, GraphPruneError):
            pass

    def _lasting(self) -> dict[str, float]:
        return {key: spent for key, spent in self._known.items() if key not in self.disturbed}


def _least(call: Call, device: torch.device, patience: int) -> tuple[float, bool]:
    """Least seconds of a call, and whether it came near to them twice."""
    used = torch.zeros(_SCRATCH if device.type == "cpu" else 0)
    spent: list[float] = []
    with torch.no_grad():
        call()  # the first call chooses kernels and lays out weights
        while len(spent) < LEAST_RUNS or not _settled(spent, patience):
            used.add_(1)  # what fills the caches in a model is not this operation's own
            spent.append(_once(call, device))
    return min(spent), _calm(spent)


def _settled(spent: Sequence[float], patience: int) -> bool:
    """Whether more runs of an operation would tell no more, or have taken long enough."""
    if _calm(spent):
        return len(spent) >= ENOUGH_RUNS or sum(spent) >= ENOUGH_SECONDS
    return len(spent) >= patience * BUSY_RUNS or sum(spent) >= patience * BUSY_SECONDS


def _calm(spent: Sequence[float]) -> bool:
    """Whether the two fastest runs agree: what other programs take is never the same."""
    first, second = sorted(spent)[:2]
    return second <= (1 + AGREEMENT) * first


def _once(call: Call, device: torch.device) -> float:
    """Seconds of one call; of one thread, those that other processes did not take."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    alone = device.type == "cpu" and torch.get_num_threads() == 1
    clock = time.thread_time if alone else time.perf_counter
    start = clock()
    call()
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    return clock() - start


def in_turns(
    calls: Sequence[Call],
    device: torch.device,
    least: int = PASSES,
    patience: float = BUSY_PASS_SECONDS,
) -> list[float]:
    """Seconds of several calls, taken in turns.

    The first one's are a median; the others' are that times the median of their ratios to the
    first in the same turn, so that a machine which is slower for a while does not count.

    Args:
        calls: What to run.
        device: Where it runs.
        least: How often each one runs at least; short calls run more often, and all of them where
            the ratios differ much from turn to turn: the machine is busy.
        patience: Seconds after which even then no more runs are made.
    """
    times: list[list[float]] = [[] for _ in calls]
    with torch.no_grad(), steady():
        while len(times[0]) < max(least, 2) + WARM_UP or _more(times, least, patience):
            for spent, call in zip(times, calls, strict=True):
                spent.append(_once(call, device))
    first, *_ = (spent[WARM_UP:] for spent in times)
    return [median(first), *(median(first) * median(ratios) for ratios in _ratios(times))]


def _ratios(times: Sequence[Sequence[float]]) -> list[list[float]]:
    """Of each call but the first its ratios to the first in the same turn."""
    first, *others = (spent[WARM_UP:] for spent in times)
    return [[b / a for a, b in zip(first, other, strict=True)] for other in others]


def _more(times: Sequence[Sequence[float]], least: int, patience: float) -> bool:
    """Whether more turns pay: the calls are short, or the ratios not sure yet."""
    total = sum(map(sum, times))
    if len(times[0]) < 4 * least and total < PASS_SECONDS:
        return True
    return total < patience and any(_error(ratios) > RATIO_ERROR for ratios in _ratios(times))


def _error(ratios: Sequence[float]) -> float:
    """Standard error of the median of numbers, as a share of it; outliers do not count."""
    low, middle, high = quantiles(ratios, n=4)
    # Of a normal distribution the quartiles are 1.35 deviations apart, and the median of n
    # draws deviates by 1.25 / sqrt(n) deviations.
    error: float = 1.25 * (high - low) / 1.35 / len(ratios) ** 0.5
    return error / middle

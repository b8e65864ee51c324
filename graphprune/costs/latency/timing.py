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
from statistics import median
from typing import Any

import torch

from graphprune.core.errors import GraphPruneError
from graphprune.core.files import write_whole

Call = Callable[[], Any]
"""Something that is ready to run."""

_FEWEST, _MOST, _ENOUGH = 3, 7, 0.01  # runs of one operation, and seconds that are enough
_WARM, _ROUNDS = 2, 15  # forward passes that do not count, and those that do at least
_LONG = 2.0  # seconds for the forward passes of short models

_SCRATCH = 1 << 22  # floats written between runs of one operation, as its neighbours would
_MMAP, _TRIM = -3, -1  # parameters of glibc's mallopt
_FREE = 1 << 30  # bytes that the allocator may hold
_LARGEST, _TRIMMED = 32 << 20, 64 << 20  # where glibc's own adaptive thresholds end


@contextmanager
def steady() -> Iterator[None]:
    """Keep glibc from handing memory back and fetching it anew while times are taken.

    Whether it does depends on what the process did before. It costs a fifth of the time of a
    MobileNet, in steps, and would be mistaken for a gain of whatever is measured next.
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
    """

    def __init__(self) -> None:
        name = hashlib.sha256(machine().encode()).hexdigest()[:16]
        self._path = cache_folder() / f"latency-{name}.json"
        self.measured = 0
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
            self._known[key] = _least(prepare(), device)
            self.measured += 1
        return self._known[key]

    def save(self) -> None:
        """Keep what was measured; a folder that cannot be written only costs time next time."""
        try:
            self._path.parent.mkdir(parents=True, exist_ok=True)
            write_whole(self._path, json.dumps(self._known).encode())
        except (OSError, GraphPruneError):
            pass


def _least(call: Call, device: torch.device) -> float:
    used = torch.zeros(_SCRATCH if device.type == "cpu" else 0)
    with torch.no_grad():
        call()  # the first call chooses kernels and lays out weights
        best, total, runs = float("inf"), 0.0, 0
        while runs < _FEWEST or (runs < _MOST and total < _ENOUGH):
            used.add_(1)  # what fills the caches in a model is not this operation's own
            spent = _once(call, device)
            best, total, runs = min(best, spent), total + spent, runs + 1
    return best


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


def in_turns(calls: Sequence[Call], device: torch.device, least: int = _ROUNDS) -> list[float]:
    """Seconds of several calls, taken in turns.

    The first one's are a median; the others' are that times the median of their ratios to the
    first in the same turn, so that a machine which is slower for a while does not count.

    Args:
        calls: What to run.
        device: Where it runs.
        least: How often each one runs at least; short calls run more often.
    """
    times: list[list[float]] = [[] for _ in calls]
    start = time.perf_counter()
    with torch.no_grad(), steady():
        while len(times[0]) < least + _WARM or (
            len(times[0]) < 4 * least and time.perf_counter() - start < _LONG
        ):
            for spent, call in zip(times, calls, strict=True):
                spent.append(_once(call, device))
    first, *others = (spent[_WARM:] for spent in times)
    ratios = (median(b / a for a, b in zip(first, other, strict=True)) for other in others)
    return [median(first), *(median(first) * ratio for ratio in ratios)]

"""Timing operations and modules on this machine; what was measured is kept on disk."""

from __future__ import annotations

import hashlib
import json
import os
import platform
import time
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from functools import partial
from pathlib import Path
from statistics import median
from typing import Any

import torch
from torch import nn

from graphprune.errors import GraphPruneError
from graphprune.files import write_whole
from graphprune.frontends.torch import Inputs, preserved, quiet

_FEWEST, _MOST, _ENOUGH = 3, 12, 0.01  # runs of one operation, and seconds that are enough
_WARM, _ROUNDS = 2, 11  # forward passes that do not count, and those that do
_LONG = 1.5  # seconds for the forward passes of short models


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

    def seconds(self, target: Callable[..., Any], args: Any, kwargs: Any) -> float:
        """Least wall time of a call over a few runs."""
        key = _key(target, args, kwargs)
        if key not in self._known:
            self._known[key] = _least(lambda: target(*args, **kwargs), _device(args))
            self.measured += 1
        return self._known[key]

    def save(self) -> None:
        """Keep what was measured; a folder that cannot be written only costs time next time."""
        try:
            self._path.parent.mkdir(parents=True, exist_ok=True)
            write_whole(self._path, json.dumps(self._known).encode())
        except (OSError, GraphPruneError):
            pass


def _key(target: Any, args: Any, kwargs: Any) -> str:
    def show(x: Any) -> str:
        if isinstance(x, torch.Tensor):
            return f"{str(x.dtype)[6:]}{list(x.shape)}@{x.device.type}"
        if isinstance(x, list | tuple):
            return "[" + ",".join(map(show, x)) + "]"
        return repr(x)

    return f"{target}({show(list(args))},{show(sorted(kwargs.items()))})"


def _device(args: Any) -> torch.device:
    leaves = torch.utils._pytree.tree_leaves(args)
    return next((x.device for x in leaves if isinstance(x, torch.Tensor)), torch.device("cpu"))


def _least(call: Callable[[], Any], device: torch.device) -> float:
    with torch.no_grad():
        call()  # the first call chooses kernels and lays out weights
        best, total, runs = float("inf"), 0.0, 0
        while runs < _FEWEST or (runs < _MOST and total < _ENOUGH):
            spent = _once(call, device)
            best, total, runs = min(best, spent), total + spent, runs + 1
    return best


def _once(call: Callable[[], Any], device: torch.device) -> float:
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


def forward_seconds(
    models: Sequence[nn.Module], inputs: Inputs, least: int = _ROUNDS
) -> list[float]:
    """Median wall time of a forward pass of each model, taken in turns on the same inputs.

    Args:
        models: Modules; they run in eval mode and stay as they are.
        inputs: Positional and keyword arguments for each.
        least: How often each one runs at least; short passes run more often.
    """
    device = _device(inputs)
    times: list[list[float]] = [[] for _ in models]
    with ExitStack() as stack, torch.no_grad(), quiet():
        for model in models:
            stack.enter_context(preserved(model, fused=True))
            model.eval()
        start = time.perf_counter()
        while len(times[0]) < least + _WARM or (
            len(times[0]) < 4 * least and time.perf_counter() - start < _LONG
        ):
            for spent, model in zip(times, models, strict=True):
                spent.append(_once(partial(model, *inputs[0], **inputs[1]), device))
    return [median(spent[_WARM:]) for spent in times]

"""speed: how much faster the smaller model runs in ONNX Runtime, as it would be deployed."""

from __future__ import annotations

import time
from collections.abc import Mapping
from statistics import median
from typing import Any

import torch
from onnx import ModelProto

from graphprune.frontends.onnx.execute import has_runtime
from graphprune.frontends.onnx.tensors import Array

_MOST, _ENOUGH = 21, 1.5  # pairs of runs, and seconds after which there are no more
_FEWEST = 3


def speed(
    before: ModelProto, after: ModelProto, feeds: Mapping[str, Array]
) -> tuple[float, float] | None:
    """Seconds of a run of both models: their ratio is the median of those of paired runs.

    Args:
        before: The original model.
        after: The smaller one.
        feeds: Inputs for both.

    Returns:
        None where ONNX Runtime is not installed or does not run them.
    """
    if not has_runtime():
        return None
    try:
        runners = [_deployed(model) for model in (before, after)]
        _pair(runners, feeds)  # memory is laid out in the first run
        times = [_pair(runners, feeds)]
        while len(times) < _FEWEST or (len(times) < _MOST and _total(times) < _ENOUGH):
            times.append(_pair(runners, feeds))
    except Exception:  # its errors have no common type; other checks tell what is wrong
        return None
    slow = median(a for a, _ in times)
    return slow, slow / median(a / b for a, b in times)


def _total(times: list[tuple[float, float]]) -> float:
    return sum(a + b for a, b in times)


def _pair(runners: list[Any], feeds: Mapping[str, Array]) -> tuple[float, float]:
    found = []
    for runner in runners:
        start = time.perf_counter()
        runner.run(None, dict(feeds))
        found.append(time.perf_counter() - start)
    return found[0], found[1]


def _deployed(model: ModelProto) -> Any:
    """A session with the runtime's own optimisations."""
    import onnxruntime  # an extra

    options = onnxruntime.SessionOptions()
    options.log_severity_level = 4
    options.intra_op_num_threads = torch.get_num_threads()
    data = model.SerializeToString()
    return onnxruntime.InferenceSession(data, options, providers=["CPUExecutionProvider"])

"""speed: how much faster the smaller model runs in ONNX Runtime, as it would be deployed."""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial

import torch
from onnx import ModelProto

from graphprune.costs.latency.timing import in_turns
from graphprune.frontends.onnx.execute import has_runtime, session
from graphprune.frontends.onnx.tensors import Array

_FEWEST = 5  # runs of each model


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
        runners = [session(m.SerializeToString(), optimized=True).run for m in (before, after)]
        calls = [partial(run, None, dict(feeds)) for run in runners]
        slow, fast = in_turns(calls, torch.device("cpu"), _FEWEST, patience=0.0)
    except Exception:  # its errors have no common type; other checks tell what is wrong
        return None
    return slow, fast

"""ONNX: files and protobufs to the neutral graph, and the narrowed graph back to ONNX."""

from __future__ import annotations

from pathlib import Path
from typing import Any


def is_onnx(model: Any) -> bool:
    """Whether a model is an ONNX file, a ModelProto or an onnx-graphsurgeon graph.

    Told without importing any of these packages, which would cost every user of torch models
    their time.
    """
    if isinstance(model, str | Path):
        return Path(model).suffix == ".onnx"
    kind = type(model)
    surgeon = kind.__module__.startswith("onnx_graphsurgeon.") and kind.__name__ == "Graph"
    return surgeon or kind.__name__ == "ModelProto"

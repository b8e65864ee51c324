"""copies: a model without the data of its weights."""

from __future__ import annotations

from typing import Any

from onnx import ModelProto


def without_initializers(model: ModelProto) -> ModelProto:
    """A copy that shares nothing with the model, but for the initializers, which it lacks."""
    out = ModelProto()
    for descriptor, value in model.ListFields():
        if descriptor.name != "graph":
            _assign(out, descriptor, value)
    for descriptor, value in model.graph.ListFields():
        if descriptor.name != "initializer":
            _assign(out.graph, descriptor, value)
    return out


def _assign(message: Any, descriptor: Any, value: Any) -> None:
    if descriptor.is_repeated:
        getattr(message, descriptor.name).extend(value)
    elif descriptor.message_type is not None:
        getattr(message, descriptor.name).CopyFrom(value)
    else:
        setattr(message, descriptor.name, value)

"""tidy: what onnxslim does well: constants that can be computed, known sizes, doubles.

It is an extra: `pip install 'graphprune[slim]'`.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping
from dataclasses import replace

from onnx import ModelProto
from onnx.helper import make_attribute

from graphprune.core.errors import LiftError, first_line
from graphprune.frontends.onnx.model import Source, indexed
from graphprune.frontends.onnx.tensors import to_proto

_SMALL = 1 << 10  # bytes up to which numbers are computed where all of them would weigh more
_MOST = 2**29  # bytes of a file up to which the tool, which copies it, is asked

try:
    import onnxslim
except ImportError:  # an extra
    onnxslim = None


def tidied(source: Source) -> Source | None:
    """A file as onnxslim leaves it.

    Args:
        source: The file.

    Returns:
        The new file; None where the tool is not installed, where the file is large or keeps its
        data elsewhere, or where no node would go.

    Raises:
        LiftError: The tool fails.
    """
    model = source.model
    if onnxslim is None or source.weight() > _MOST or model.functions:
        return None
    given = ModelProto()
    given.CopyFrom(model)
    for proto in given.graph.initializer:
        if source.is_external(proto.name):
            proto.CopyFrom(to_proto(source.array(proto.name), proto.name, proto.data_type))
    for node in given.graph.node:  # of numbers that are no tensors the tool makes double ones
        if node.op_type == "Constant" and not node.domain and node.output[0] in source.constants:
            value = make_attribute("value", source.constants[node.output[0]])
            del node.attribute[:]
            node.attribute.append(value)
    before = given.ByteSize()
    made = _slimmed(given, {})
    if made is not None and made.ByteSize() > before:  # what it computes may be larger
        made = _slimmed(given, {"size_threshold": _SMALL})
    if made is None or len(made.graph.node) >= len(model.graph.node) or made.ByteSize() > before:
        return None
    return indexed(replace(
        source, model=made, whole=None, constants={}, origins={}, nodes=[], opsets={}, _arrays={},
        bytes=source.own_bytes(),
    ))  # fmt: skip


def _slimmed(model: ModelProto, limits: Mapping[str, int]) -> ModelProto | None:
    """What onnxslim makes of a model; inputs, results and sizes are stated as they were."""
    given = ModelProto()
    given.CopyFrom(model)
    logger = logging.getLogger("onnxslim")
    level = logger.level
    try:
        logger.setLevel(logging.ERROR)
        made: ModelProto | None = onnxslim.slim(given, **limits)
    except Exception as error:  # it has no errors of its own
        raise LiftError(f"onnxslim cannot read it: {first_line(error)}") from error
    finally:
        logger.setLevel(level)
    if made is None or _results(made) != _results(model):
        return None
    named = {name for node in made.graph.node for name in node.output}
    del made.graph.value_info[:]  # what it infers on its way would be stored, and some of it twice
    made.graph.value_info.extend(v for v in model.graph.value_info if v.name in named)
    stated = {item.name: item for item in (*model.graph.input, *model.graph.output)}
    for item in (*made.graph.input, *made.graph.output):
        if item.name in stated:
            item.CopyFrom(stated[item.name])
    return made


def _results(model: ModelProto) -> list[str]:
    return [item.name for item in model.graph.output]

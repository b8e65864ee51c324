"""sparse: initializers and constants stored by the places of their numbers, as tensors.

Which numbers are zero changes once weights make up for what goes, so that the result holds tensors.
"""

from __future__ import annotations

import numpy as np
from onnx import ModelProto, SparseTensorProto, TensorProto, numpy_helper

from graphprune.core.errors import LiftError
from graphprune.frontends.onnx.copies import without_initializers

_VALUE = "sparse_value"


def dense(model: ModelProto) -> ModelProto | None:
    """A copy of a model without sparse tensors; None where it holds none.

    Args:
        model: The model; the copy shares nothing with it.

    Raises:
        LiftError: A sparse tensor's places lie outside it.
    """
    graph = model.graph
    told = [n for n in graph.node if n.op_type == "Constant" and n.attribute[0].name == _VALUE]
    if not graph.sparse_initializer and not told:
        return None
    out = without_initializers(model)
    out.graph.initializer.extend(graph.initializer)
    del out.graph.sparse_initializer[:]
    out.graph.initializer.extend(_tensor(x, x.values.name) for x in graph.sparse_initializer)
    for node in out.graph.node:
        for given in node.attribute if node.op_type == "Constant" else ():
            if given.name == _VALUE:
                found = _tensor(given.sparse_tensor, node.output[0])
                given.Clear()
                given.name, given.type = "value", given.TENSOR
                given.t.CopyFrom(found)
    return out


def _tensor(sparse: SparseTensorProto, name: str) -> TensorProto:
    """The tensor that a sparse one stands for; places count elements, or the dimensions apart."""
    values, places = numpy_helper.to_array(sparse.values), numpy_helper.to_array(sparse.indices)
    out = np.zeros(tuple(sparse.dims), values.dtype)
    try:
        at = places.ravel() if places.ndim < 2 else np.ravel_multi_index(tuple(places.T), out.shape)
        out.ravel()[at] = values
    except (ValueError, IndexError) as error:
        raise LiftError(f"{name}: places of its numbers lie outside of it") from error
    return numpy_helper.from_array(out, name)

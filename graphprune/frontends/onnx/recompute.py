"""recompute: what the file's shape computations give once lengths have changed."""

from __future__ import annotations

import numpy as np
from onnx import NodeProto

from graphprune.core.cuts import Cuts
from graphprune.frontends.onnx.lift import LiftedFile
from graphprune.frontends.onnx.tensors import Array
from graphprune.frontends.onnx.trace import evaluate_node, shape_of


def recompute(lifted: LiftedFile, cuts: Cuts) -> dict[str, Array]:
    """The values that shapes determine and that change with the cuts, by name."""
    trace = lifted.traces.first
    found: dict[str, Array] = {}
    for node in lifted.source.nodes:
        if not any(name in trace.folded for name in node.output):
            continue
        if node.op_type in ("Shape", "Size") and not node.domain:
            results: list[Array] | None = _shape(lifted, cuts, node, found)
        elif any(name in found for name in node.input):
            operands = [_value(lifted, name, found) for name in node.input]
            results = evaluate_node(node, lifted.source, operands)
        else:
            continue
        for name, array in zip(node.output, results or [], strict=False):
            if not np.array_equal(array, trace.known[name]):
                found[name] = array
    return found


def _shape(lifted: LiftedFile, cuts: Cuts, node: NodeProto, found: dict[str, Array]) -> list[Array]:
    name = node.input[0]
    value = lifted.values.get(name)
    if value is not None:
        kept = cuts.kept(value)
        shape = tuple(s if k is None else len(k) for s, k in zip(value.shape, kept, strict=True))
    elif name in found:
        shape = found[name].shape
    else:
        shape = lifted.traces.first.shape(name) or ()
    return [shape_of(node, shape)]


def _value(lifted: LiftedFile, name: str, found: dict[str, Array]) -> Array | None:
    if not name:
        return None
    known = found.get(name, lifted.traces.first.known.get(name))
    return lifted.source.array(name) if known is None else known

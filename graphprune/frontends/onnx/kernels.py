"""Operators that ONNX Runtime has in ONNX's own domain, and that onnx's checker does not take.

Its optimizer writes some into files of any opset; others ONNX withdrew after files were written.
"""

from __future__ import annotations

from onnx import AttributeProto, GraphProto, ModelProto

_NEVER = 1000
_OPSETS = {
    "LayerNormalization": range(17),
    "SimplifiedLayerNormalization": range(_NEVER),
    "GroupNormalization": range(18, 21),
}
"""The opsets in which the checker refuses each, and ONNX Runtime runs it."""
_DOMAIN = "com.microsoft"


def told_apart(model: ModelProto) -> None:
    """Give such nodes a domain that the checker leaves alone; the model is modified."""
    opset = max((item.version for item in model.opset_import if not item.domain), default=0)
    known = {item.domain for item in model.opset_import}
    if _moved(model.graph, opset) and _DOMAIN not in known:
        model.opset_import.add(domain=_DOMAIN, version=1)


def _moved(graph: GraphProto, opset: int) -> bool:
    found = False
    for node in graph.node:
        if not node.domain and opset in _OPSETS.get(node.op_type, ()):
            node.domain, found = _DOMAIN, True
        for attribute in node.attribute:
            if attribute.type == AttributeProto.GRAPH:
                found |= _moved(attribute.g, opset)
    return found

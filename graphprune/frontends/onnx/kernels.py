"""Operators that ONNX Runtime has in ONNX's own domain, and that onnx's checker does not know.

Its optimizer writes them into files of any opset.
"""

from __future__ import annotations

from onnx import AttributeProto, GraphProto, ModelProto

_NEVER = 1000
_SINCE = {"LayerNormalization": 17, "SimplifiedLayerNormalization": _NEVER}
"""The opset from which each is an operator of ONNX itself."""
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
        if not node.domain and opset < _SINCE.get(node.op_type, 0):
            node.domain, found = _DOMAIN, True
        for attribute in node.attribute:
            if attribute.type == AttributeProto.GRAPH:
                found |= _moved(attribute.g, opset)
    return found

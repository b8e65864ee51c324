"""functions: calls of local functions are opened for the analysis, and closed again behind it.

Whatever a function holds can be analysed and cut only in the open. A call all of whose nodes came
through unchanged is put back, so that functions which no removal touches stay as they were.
"""

from __future__ import annotations

from onnx import ModelProto, NodeProto


def closed(frame: ModelProto, opened: ModelProto, model: ModelProto) -> None:
    """Put calls back.

    Args:
        frame: The smaller model without its weights; modified.
        opened: The original with all calls opened.
        model: The original.
    """
    kinds = {(f.domain, f.name) for f in model.functions}
    new = {node.output[0]: node for node in frame.graph.node if node.output}
    old = {node.output[0]: node for node in opened.graph.node if node.output}
    makers = {name: node for node in old.values() for name in node.output}
    calls = [node for node in model.graph.node if (node.domain, node.op_type) in kinds]
    taken: dict[str, NodeProto] = {}  # the first result of every node to go, and its call
    for call in calls:
        inside = _inside(call, makers)
        if inside and not taken.keys() & inside and all(_same(new, old, n) for n in inside):
            taken.update(dict.fromkeys(inside, call))
    if not taken:
        return
    nodes: list[NodeProto] = []
    last = {id(call): name for name in (n.output[0] for n in frame.graph.node if n.output)
            if (call := taken.get(name)) is not None}  # fmt: skip
    for node in frame.graph.node:
        call = taken.get(node.output[0]) if node.output else None
        if call is None:
            nodes.append(node)
        elif last[id(call)] == node.output[0]:
            nodes.append(call)
    copies = [NodeProto.FromString(node.SerializeToString()) for node in nodes]
    del frame.graph.node[:]
    frame.graph.node.extend(copies)
    _declare(frame, model)


def _inside(call: NodeProto, makers: dict[str, NodeProto]) -> set[str]:
    """First results of the nodes that a call was opened to; empty where that is unclear."""
    given, found = set(call.input), set[str]()
    waiting = [name for name in call.output if name]
    while waiting:
        name = waiting.pop()
        if name in given or name not in makers:
            if name not in given:
                return set()
            continue
        node = makers[name]
        if node.output[0] not in found:
            found.add(node.output[0])
            waiting += [item for item in node.input if item]
    return found


def _same(new: dict[str, NodeProto], old: dict[str, NodeProto], name: str) -> bool:
    if name not in new:
        return False
    a, b = (nodes[name].SerializeToString(deterministic=True) for nodes in (new, old))
    return bool(a == b)


def _declare(frame: ModelProto, model: ModelProto) -> None:
    """The functions that are still called, also by one another, and their domains."""
    known = {(f.domain, f.name): f for f in model.functions}
    needed: dict[tuple[str, str], None] = {}
    waiting = [(n.domain, n.op_type) for n in frame.graph.node]
    while waiting:
        kind = waiting.pop()
        if kind in known and kind not in needed:
            needed[kind] = None
            waiting += [(n.domain, n.op_type) for n in known[kind].node]
    del frame.functions[:]
    frame.functions.extend(f for f in model.functions if (f.domain, f.name) in needed)
    held = {entry.domain for entry in frame.opset_import}
    for entry in model.opset_import:
        if entry.domain not in held:
            frame.opset_import.add(domain=entry.domain, version=entry.version)

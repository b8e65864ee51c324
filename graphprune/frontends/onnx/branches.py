"""branches: an `If` whose condition is always the same, as the branch that it takes.

Exporters leave such ones: `squeeze` of a dimension whose length the weights fix, or a switch that
is a constant. A condition is settled where it is made of constants, or of lengths that are the same
at other sizes of the inputs.
"""

from __future__ import annotations

from dataclasses import replace

from onnx import GraphProto, NodeProto, TensorProto, helper

from graphprune.frontends.onnx.copies import without_initializers
from graphprune.frontends.onnx.model import APART, Source, indexed
from graphprune.frontends.onnx.names import fresh, renamed
from graphprune.frontends.onnx.sizes import Traces, is_open
from graphprune.frontends.onnx.tensors import Array


def taken(source: Source, traces: Traces) -> Source | None:
    """A source in which the branches that are always taken stand in the open; None without any.

    Args:
        source: The model.
        traces: What is known of its values.
    """
    if source.model.ir_version < APART:
        return None
    model = without_initializers(source.model)
    opened = _Opened(source, traces)
    nodes = [made for node in model.graph.node for made in opened.stands_for(node)]
    if not opened.found:
        return None
    copies = [NodeProto.FromString(node.SerializeToString()) for node in nodes]
    del model.graph.node[:]
    model.graph.node.extend(copies)
    model.graph.initializer.extend((*source.model.graph.initializer, *opened.tensors))
    return indexed(replace(
        source, model=model, constants={}, origins={}, nodes=[], opsets={},
        bytes=source.own_bytes(), _arrays={},
    ))  # fmt: skip


class _Opened:
    """Takes branches out of the nodes that hold them.

    Attributes:
        found: Whether there was any.
        tensors: The initializers of the branches.
    """

    def __init__(self, source: Source, traces: Traces) -> None:
        self._source, self._traces = source, traces
        self._makers = {name: node for node in source.nodes for name in node.output}
        self._names = {name for n in source.model.graph.node for name in (*n.input, *n.output)}
        self._names |= source.constants.keys() | {item.name for item in source.model.graph.input}
        self._tried = traces.first is not traces.second or not is_open(source)
        self.found = False
        self.tensors: list[TensorProto] = []

    def stands_for(self, node: NodeProto) -> list[NodeProto]:
        """The nodes of the branch that a node takes; itself, where that is open."""
        if node.op_type != "If" or node.domain:
            return [node]
        condition = self._settled(node.input[0])
        if condition is None or condition.size != 1:
            return [node]
        self.found = True
        name = "then_branch" if condition.item() else "else_branch"
        branch = GraphProto()
        branch.CopyFrom(next(a.g for a in node.attribute if a.name == name))
        return [inner for own in self._alone(branch, node) for inner in self.stands_for(own)]

    def _settled(self, name: str) -> Array | None:
        """A condition that is always the same; None of any other."""
        if name in self._source.origins:
            return self._source.array(name)
        known = self._traces.first.known.get(name)
        return known if known is not None and self._holds(name) else None

    def _holds(self, name: str) -> bool:
        """Whether a value is the same at all sizes: what is compared must be, not the outcome."""
        if name in self._source.origins:
            return True
        maker, known = self._makers.get(name), self._traces.first.known.get(name)
        if maker is None or known is None:
            return False
        if known.dtype == bool:
            return all(self._holds(given) for given in maker.input if given)
        return self._tried and self._traces.fixed(name)

    def _alone(self, branch: GraphProto, node: NodeProto) -> list[NodeProto]:
        """The nodes of a branch, whose names are those of no others.

        What they give goes by the names of the node's results.
        """
        computed = [name for inner in branch.node for name in inner.output if name]
        self._names.update(computed)
        names = {tensor.name: fresh(tensor.name, self._names) for tensor in branch.initializer}
        names |= {name: fresh(name, self._names) for name in computed}
        given: list[NodeProto] = []
        for item, result in zip(branch.output, node.output, strict=True):
            if item.name in computed and names[item.name] not in node.output:
                names[item.name] = result or names[item.name]
            elif result:  # an outer value, or one that is given twice
                read = names.get(item.name, item.name)
                given.append(helper.make_node("Identity", [read], [result], f"{result}/Identity"))
        for old, new in names.items():
            renamed(branch, old, new)
        for tensor in branch.initializer:
            tensor.name = names[tensor.name]
        self.tensors.extend(branch.initializer)
        return [*branch.node, *given]

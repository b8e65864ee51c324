"""lower: the narrowed graph as an ONNX model.

1. Constants are cut. One that several nodes use and that not all of them cut alike is copied for
   those that do; the others keep the original.
2. Attributes, and arguments that are constants, get their new numbers.
3. Arguments that the file computes from shapes stay computed where the computation still gives the
   right numbers. Where it does not, the entries concerned are fixed and the others stay computed.
   The same holds for numbers that enter the data, such as a softmax scale taken from a length, for
   those that a graph inside a node reads, and for those that the model returns.
4. Shapes that the file states are brought up to date; everything else stays as it was.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
from onnx import NodeProto, helper

from graphprune.core.cuts import Cuts
from graphprune.core.effect import SHARE
from graphprune.core.errors import LiftError
from graphprune.core.graph import Op, Value
from graphprune.frontends.onnx.arguments import Node, as_operand
from graphprune.frontends.onnx.frame import Frame
from graphprune.frontends.onnx.lift import LiftedFile
from graphprune.frontends.onnx.model import (
    Source,
    captured,
)
from graphprune.frontends.onnx.recompute import recompute
from graphprune.frontends.onnx.stored import Lowered, Stored, cut_array
from graphprune.frontends.onnx.tensors import Array


def lower(lifted: LiftedFile, cuts: Cuts, replaced: Mapping[Value, Array] | None = None) -> Lowered:
    """Make the smaller model.

    Args:
        lifted: The lifted model.
        cuts: The narrowed graph.
        replaced: Other elements, already cut, for some weights.

    Raises:
        LiftError: A value that depends on the inputs' sizes would have to be fixed.
    """
    return _Writer(lifted, cuts, replaced or {}).write()


class _Writer:
    def __init__(self, lifted: LiftedFile, cuts: Cuts, replaced: Mapping[Value, Array]) -> None:
        self.lifted, self.cuts, self.replaced = lifted, cuts, replaced
        self.source: Source = lifted.source
        self.file = Frame(lifted, cuts)
        self.out = self.file.out
        self.copies: dict[tuple[str, bytes], str] = {}

    def write(self) -> Lowered:
        found = recompute(self.lifted, self.cuts)
        ops = [op for op in self.lifted.graph.ops if op.source is not None]
        alike = self._alike(ops)
        for op in ops:
            node, source = self.file.node(op), op.source
            for place, origin in source.operands.items():
                value = op.inputs[place]
                if origin in self.source.constants:
                    self._weight(node, place, origin, value, alike)
                else:
                    self._known(node, place, origin, value, found)
            self._attributes(op, node)
            for place, name in source.arguments.items():
                self._argument(op, node, place, name, found)
        self._results(found)
        return self.file.finish()

    # --- weights ----------------------------------------------------------------------------

    def _alike(self, ops: list[Op]) -> set[str]:
        """Constants that every user cuts in the same way, so that they can change in place."""
        ways: dict[str, set[bytes]] = {}
        fixed = {item.name for item in self.source.model.graph.output}
        for op in ops:
            for place, origin in op.source.operands.items():
                ways.setdefault(origin, set()).add(self._way(op.inputs[place]))
        for node in self.source.nodes:
            known = [n for n in node.input if n in self.lifted.traces.first.folded]
            folded = any(n in self.lifted.traces.first.folded for n in node.output) or known
            fixed.update(captured(node))
            if folded:
                fixed.update(n for n in node.input if n in self.source.constants)
        for op in ops:
            fixed.update(op.source.proto.input[place] for place in op.source.arguments)
        held = {self.source.origins.get(name, name) for name in fixed}
        return {origin for origin, found in ways.items() if len(found) == 1} - held

    def _way(self, value: Value) -> bytes:
        if value in self.replaced:
            return f"replaced {value.name}".encode()
        kept = self.cuts.weights.get(value)
        if kept is None:
            return b""
        return b"|".join(b"all" if k is None else k.tobytes() for k in kept)

    def _weight(
        self, node: NodeProto, place: int, origin: str, value: Value, alike: set[str]
    ) -> None:
        way = self._way(value)
        if not way:
            return
        name = origin if origin in alike else self.copies.get((origin, way))
        if name is None:
            name = self.file.fresh(origin)
            self.copies[origin, way] = name
        if name not in self.file.new:
            self.file.new[name] = self._cut(name, origin, value)
        self.out.names[value] = name
        if origin not in alike:
            self.file.feed(node, place, name)

    def _cut(self, name: str, origin: str, value: Value) -> Stored:
        proto = self.source.constants[origin]
        elem_type, external = proto.data_type, self.source.is_apart(origin)
        kept = self.cuts.weights.get(value) or [None] * len(value.shape)
        shape = tuple(
            size if k is None else len(k) for size, k in zip(value.shape, kept, strict=True)
        )
        given = self.replaced.get(value)
        if given is not None:
            return Stored(name, elem_type, shape, lambda: given)
        return Stored(
            name,
            elem_type,
            shape,
            lambda: cut_array(self.source.array(origin), kept),
            external=external,
        )

    # --- numbers ----------------------------------------------------------------------------

    def _known(
        self, node: NodeProto, place: int, name: str, value: Value, found: Mapping[str, Array]
    ) -> None:
        """A value that shapes determine, among the data."""
        if value.kind == "result":
            wanted = self.lifted.traces.first.known[name]
        else:
            kept = self.cuts.weights.get(value) or [None] * len(value.shape)
            wanted = cut_array(self.lifted.traces.first.known[name], kept)
        self._settle(node, place, name, wanted, found)

    def _argument(
        self, op: Op, node: NodeProto, place: int, attr: str, found: Mapping[str, Array]
    ) -> None:
        name = op.source.proto.input[place]
        present = self.lifted.traces.first.known.get(name)
        changed = self.cuts.attrs.get(op, {})
        if present is None:
            present = self.source.array(name)
        wanted = as_operand(attr, changed.get(attr, op.attrs[attr]), present.dtype)
        if wanted.size == present.size:
            wanted = wanted.reshape(present.shape)
        if attr in changed:
            self.out.edits[f"{op.name}.{attr}"] = changed[attr]
        self._settle(node, place, name, wanted, found)

    def _results(self, found: Mapping[str, Array]) -> None:
        """Results that shapes determine: the model returns what it returned before."""
        for item in self.source.model.graph.output:
            if item.name in found and item.name not in self.lifted.values:
                node = helper.make_node("Identity", [item.name], [item.name], f"{item.name}/kept")
                self._settle(node, 0, item.name, self.lifted.traces.first.known[item.name], found)
                self.file.returns(node)

    def _settle(
        self, node: NodeProto, place: int, name: str, wanted: Array, found: Mapping[str, Array]
    ) -> None:
        """Make an operand hold the wanted numbers, computed as before where that gives them."""
        present = found.get(name, self.lifted.traces.first.known.get(name))
        if present is None:
            present = self.source.array(name)
        if present.shape == wanted.shape and np.array_equal(present, wanted):
            return
        if name in self.source.constants or self.lifted.traces.fixed(name):
            self.file.feed(node, place, self.file.constant(name, wanted))
            return
        if present.shape != wanted.shape:
            raise LiftError(
                f"{node.op_type} {node.name}: {name} depends on the inputs' sizes and on lengths "
                "that would change; pass keep= with the layers around it"
            )
        wrong = present != wanted
        if (wrong & ~self.lifted.traces.steady(name)).any():
            self._scale(node, place, name, np.where(wrong, wanted, 1), np.where(wrong, present, 1))
        else:
            mask = self.file.constant(name, wrong)
            right = self.file.constant(name, np.where(wrong, wanted, 0).astype(wanted.dtype))
            self.file.insert(node, place, "Where", [mask, right, name])

    def _scale(self, node: NodeProto, place: int, name: str, new: Array, old: Array) -> None:
        """Products of a width and of sizes that vary: the width's part changes, the rest stays."""
        dtype = self.lifted.traces.first.known[name].dtype
        if dtype.kind == "i":
            common = np.gcd(new, old)
            new, old = new // common, old // common
        for kind, factor in (("Mul", new), ("Div", old)):
            constant = self.file.constant(name, factor.astype(dtype))
            name = self.file.insert(node, place, kind, [name, constant])

    def _attributes(self, op: Op, node: NodeProto) -> None:
        source: Node = op.source
        held = {attribute.name: attribute for attribute in node.attribute}
        for name, value in self.cuts.attrs.get(op, {}).items():
            if name in source.arguments.values():
                continue
            if name == SHARE:
                self.file.share(node, value, op.outputs[0].dtype)
                continue
            self.out.edits[f"{op.name}.{name}"] = value
            if name == "split" and self.source.opsets[""] >= 13:
                node.input.append(
                    self.file.constant(f"{op.name}_split", np.asarray(value, np.int64))
                )
                if "num_outputs" in held:
                    node.attribute.remove(held["num_outputs"])
            elif name in held:
                held[name].CopyFrom(helper.make_attribute(name, value))
            else:
                node.attribute.append(helper.make_attribute(name, value))

"""Generated code: a narrowed stretch of the graph as a module's new `forward`.

It stands in for code that cannot express the new widths. Only the module's own code is written
anew: the modules that it calls are called as before, with their hooks, their modes and whatever
they do in training. What the code took from the sizes of its inputs, their types and the mode is
taken from them again (`follow`); where that is not possible, the module refuses by name.
"""

from __future__ import annotations

import dataclasses
import inspect
import operator
from collections.abc import Sequence
from typing import Any

import torch
from torch import fx, nn
from torch.utils import _pytree as pytree

from graphprune.core.cuts import Cuts
from graphprune.core.effect import SHARE
from graphprune.core.errors import LiftError
from graphprune.core.graph import Op, Value
from graphprune.core.rewrites import Draft
from graphprune.engine.tensors import cut_tensor
from graphprune.frontends.torch.captured import CapturedModule
from graphprune.frontends.torch.execute import rewritten
from graphprune.frontends.torch.findings import Call, Findings
from graphprune.frontends.torch.follow import Follows, follow
from graphprune.frontends.torch.generated import (
    become,
    in_mode,
    only_evaluated,
    only_given,
    only_left_out,
    only_size,
    only_types,
)
from graphprune.frontends.torch.inside import Inside
from graphprune.frontends.torch.left_out import LeftOut, is_float, kind_of, unmasked
from graphprune.frontends.torch.needed import needed_for
from graphprune.frontends.torch.numbers import Numbers
from graphprune.frontends.torch.regions import Regions
from graphprune.frontends.torch.traced import AUTOCAST


def emit(
    captured: CapturedModule,
    cuts: Cuts,
    path: str,
    original: Findings,
    root: nn.Module,
    inline: bool = False,
    draft: Draft | None = None,
    rigid: bool = False,
) -> None:
    """Give one submodule generated code.

    Args:
        captured: The captured model.
        cuts: The narrowed graph.
        path: The submodule's path; "" for the whole model.
        original: Every call of a module of the original, in terms of the graph's values.
        root: Its narrowed copy, which gets the new code.
        inline: Whether what the modules inside do is repeated instead of calling them.
        draft: The graph as rewrites leave it, where the code is to compute that; the calls are
            then in terms of the values that are left.
        rigid: Whether it refuses all sizes, types and modes but those of the capture.

    Raises:
        LiftError: The call's arguments or results are not all values of the graph.
        TypeError: The module's class cannot be derived from.
    """
    calls = original.calls.get(path)
    if not calls:
        raise LiftError(f"{path or 'the model'} is never called as a module")
    emitter = _Emitter(captured, cuts, path, original, root, draft)
    become(root, emitter.emitted(calls[0], inline, rigid))
    if hasattr(root, "_qkv_same_embed_dim"):
        # Tells nn.TransformerEncoderLayer not to pass the weights to its fused kernel, which
        # takes embed_dim for the inner width.
        root.__dict__["_qkv_same_embed_dim"] = False


class _Emitter:
    def __init__(
        self,
        captured: CapturedModule,
        cuts: Cuts,
        path: str,
        original: Findings,
        root: nn.Module,
        draft: Draft | None = None,
    ) -> None:
        self._captured = captured
        self._ops = captured.graph.ops if draft is None else draft.ops
        known = {op.name: op for op in captured.graph.ops}
        self._origins = {op: known[op.name] for op in self._ops}
        self._cuts = cuts
        self._path = path
        self._original = original
        self._root = root
        self._whose = path or f"the model ({type(root).__name__})"
        self._graph = fx.Graph()
        self._nodes: dict[Value, fx.Node] = {}
        weights = [*captured.graph.weights.values(), *_new(draft)]
        self._names = _local_names(weights, path)
        self._numbers = Numbers(self._graph, self._nodes)
        self._places: dict[Value, fx.Node] = {}
        self._optional: list[tuple[Value, fx.Node]] = []
        self._flags: dict[str, fx.Node] = {}
        self._device: fx.Node | None = None
        self._follows = Follows()
        self._regions = Regions(self._graph)

    def emitted(self, call: Call, inline: bool, rigid: bool = False) -> fx.Graph:
        """The code of one call."""
        if any(isinstance(x, torch.Tensor) for x in pytree.tree_leaves(call.result)):
            raise LiftError(f"what {self._whose} returns is not in the graph")
        self._inputs(call)
        wanted = [v for v in pytree.tree_leaves(call.result) if isinstance(v, Value)]
        needed = needed_for(wanted, self._ops, self._nodes)
        available = {*self._nodes, *self._captured.graph.weights.values()}
        available.update(value for op in needed for value in op.outputs)
        inside = Inside(self._captured.graph, self._path, self._original.calls, self._ops)
        inner = {} if inline else inside.called(needed, wanted, available)
        aside = set(inner.values()) | inside.gone()
        self._follows = follow(
            self._captured,
            self._path,
            call,
            inside.own(aside),
            [self._origins[op] for op in needed if op not in inner],
            aside,
            self._cuts,
            rigid,
        )
        for value, node in self._optional:
            self._lacking(value, node, LeftOut(call, needed, inner, wanted))
        self._refusals()
        done: set[str] = set()
        for op in needed:
            child = inner.get(op)
            if child is None:
                self._operation(op)
            elif child not in done:
                done.add(child)
                self._regions.gradients(True)
                self._regions.autocast(op.source.meta.get(AUTOCAST))
                self._call(child)
        self._regions.gradients(True)
        self._regions.autocast(None)
        self._graph.output(self._tree(call.result))
        return self._graph

    # --- signature --------------------------------------------------------------------------

    def _inputs(self, call: Call) -> None:
        args, kwargs = call.args
        signature = inspect.signature(type(self._root).forward)
        bound = signature.bind(self._root, *args, **kwargs).arguments
        for number, (name, parameter) in enumerate(signature.parameters.items()):
            if number == 0:
                continue
            if parameter.kind in (parameter.VAR_POSITIONAL, parameter.VAR_KEYWORD):
                if bound.get(name):
                    raise LiftError(f"{self._whose} takes *{name}")
                continue
            default = parameter.default
            args_ = () if default is inspect.Parameter.empty else (_plain(default),)
            node = (
                self._graph.placeholder(name, default_value=args_[0])
                if args_
                else self._graph.placeholder(name)
            )
            if args_ and default is None and bound.get(name) is None:
                whose = f"{self._whose}: its input {name}"
                self._graph.call_function(only_left_out, (node, whose))
            self._unpack(node, bound.get(name))

    def _unpack(self, node: fx.Node, tree: Any) -> None:
        if isinstance(tree, Value) and node.op == "placeholder" and node.args:
            self._optional.append((tree, node))
        if isinstance(tree, Value):
            self._nodes.setdefault(tree, node)
            self._places.setdefault(tree, node)
        elif isinstance(tree, tuple | list):
            for i, item in enumerate(tree):
                self._unpack(self._graph.call_function(operator.getitem, (node, i)), item)
        elif isinstance(tree, dict):
            for key, item in tree.items():
                self._unpack(self._graph.call_function(operator.getitem, (node, key)), item)
        elif isinstance(tree, torch.Tensor):
            raise LiftError(f"an argument of {self._whose} is not in the graph")
        elif not node.users and node.op == "call_function":
            self._graph.erase_node(node)

    def _tree(self, result: Any) -> Any:
        """What the module returns, in the structure of the original."""
        if isinstance(result, Value):
            return self._node(result)
        if type(result) in (tuple, list):
            return type(result)(self._tree(item) for item in result)
        if type(result) is dict:
            return {key: self._tree(item) for key, item in result.items()}
        if isinstance(result, tuple) and hasattr(result, "_fields"):
            return self._graph.call_function(type(result), tuple(map(self._tree, result)))
        if dataclasses.is_dataclass(result):
            fields = {f.name: getattr(result, f.name) for f in dataclasses.fields(result)}
            given = {k: self._tree(v) for k, v in fields.items() if v is not None}
            return self._graph.call_function(type(result), (), given)
        if result is None or isinstance(result, int | float | bool | str):
            return result
        raise LiftError(f"generated code cannot return a {type(result).__name__}")

    def _lacking(self, value: Value, node: fx.Node, without: LeftOut) -> None:
        """What becomes of an input that may be None: one of no effect, or else a refusal."""
        like = next((n for v, n in self._places.items() if v is not value and is_float(v)), None)
        held = self._nodes[value] is node and like is not None
        if held and without.allows(self._captured, self._path, node.name, value, self._follows):
            given = (node, len(value.shape), like, kind_of(value))
            self._nodes[value] = self._graph.call_function(unmasked, given)
        else:
            whose = f"{self._whose}: its input {node.name}"
            self._graph.call_function(only_given, (node, whose))

    def _refusals(self) -> None:
        """Checks of what the code cannot follow."""
        follows = self._follows
        for value, dim, size in follows.fixed:
            if value in self._places:
                node = self._places[value]
                whose = f"{self._whose}: its input {node.name}"
                self._graph.call_function(only_size, (node, dim, size, whose))
        first = next(filter(is_float, self._places), None)
        if first is not None and follows.types is not None:
            node = self._places[first]
            whose = f"{self._whose}: its input {node.name}"
            self._graph.call_function(only_types, (node, follows.types, whose))
        if follows.evaluated:
            self._graph.call_function(only_evaluated, (self._mode(""), self._whose))

    # --- modules ----------------------------------------------------------------------------

    def _call(self, path: str) -> None:
        """A call of a module, as the original calls it."""
        call = self._original.calls[path][0]
        given, result = call.outer or (call.args, call.result)
        args, kwargs = pytree.tree_map_only(Value, self._node, given)
        name = path.removeprefix(f"{self._path}.") if self._path else path
        node = self._graph.call_module(name, tuple(args), kwargs)
        self._unpack_result(node, result)

    def _unpack_result(self, node: fx.Node, tree: Any) -> None:
        if isinstance(tree, Value):
            self._nodes[tree] = node
        elif isinstance(tree, tuple | list):
            for i, item in enumerate(tree):
                if any(isinstance(x, Value) for x in pytree.tree_leaves(item)):
                    taken = self._graph.call_function(operator.getitem, (node, i))
                    self._unpack_result(taken, item)
        elif isinstance(tree, dict):
            for key, item in tree.items():
                taken = self._graph.call_function(operator.getitem, (node, key))
                self._unpack_result(taken, item)
        elif dataclasses.is_dataclass(tree):
            for field in dataclasses.fields(tree):
                item = getattr(tree, field.name)
                if any(isinstance(x, Value) for x in pytree.tree_leaves(item)):
                    taken = self._graph.call_function(getattr, (node, field.name))
                    self._unpack_result(taken, item)

    # --- operations -------------------------------------------------------------------------

    def _operation(self, op: Op) -> None:
        operands = [None if value is None else self._node(value) for value in op.inputs]
        outputs, op, follows = op.outputs, self._origins[op], self._follows
        self._regions.gradients(op not in follows.without_gradients)
        changed = dict(self._cuts.attrs.get(op, {}))
        for attr, lengths in follows.lengths.get(op, {}).items():
            changed[attr] = self._numbers.lengthened(changed.get(attr, op.attrs.get(attr)), lengths)
        if op.attrs.get("device") is not None:
            changed["device"] = self._place()
        for attr, trained in follows.modes.get(op, {}).items():
            mode = self._mode(op.module)
            choice = (mode, trained, op.attrs.get(attr))
            plain = trained is True
            changed[attr] = mode if plain else self._graph.call_function(in_mode, choice)
        for attr, value in follows.dtypes.get(op, {}).items():
            changed[attr] = self._graph.call_function(getattr, (self._node(value), "dtype"))
        self._regions.autocast(op.source.meta.get(AUTOCAST))
        target, args, kwargs = rewritten(op, changed, operands)
        node = self._numbers.call(target, args, kwargs)
        if SHARE in changed:
            node = self._graph.call_function(torch.ops.aten.mul.Tensor, (node, changed[SHARE]))
        if op in follows.dropouts:
            dropped = (node, follows.dropouts[op], self._mode(""))
            node = self._graph.call_function(torch.ops.aten.dropout.default, dropped)
        several = isinstance(op.source.meta.get("val"), list | tuple)
        for i, value in enumerate(outputs):
            self._nodes[value] = (
                self._graph.call_function(operator.getitem, (node, i)) if several else node
            )

    def _node(self, value: Value) -> fx.Node:
        if value not in self._nodes:
            name = self._names.get(value)
            if value.kind == "constant":
                name = self._constant(value)
            if name is None:
                raise LiftError(f"{value.name} is used by {self._whose} but lies outside")
            self._nodes[value] = self._graph.get_attr(name)
        return self._nodes[value]

    def _constant(self, value: Value) -> str:
        """A tensor that the Python code makes of literals becomes a buffer outside the state."""
        name = value.name.replace(".", "_")
        while vars(self._root).get(name, self) is None:  # a place that the code has yet to fill
            name += "_"
        if getattr(self._root, name, None) is None:
            tensor = cut_tensor(value.tensor, self._cuts.weights.get(value, ()))
            self._root.register_buffer(name, tensor.clone(), persistent=False)
        return name

    # --- what follows the inputs and the mode -----------------------------------------------

    def _mode(self, module: str) -> fx.Node:
        """The mode of the module that an operation lies in."""
        inner = module.removeprefix(self._path).removeprefix(".")
        if inner not in self._flags:
            name = f"{inner}.training" if inner else "training"
            self._flags[inner] = self._graph.create_node("get_attr", name)
        return self._flags[inner]

    def _place(self) -> fx.Node:
        """The device of the first input, for tensors that are made on the way."""
        if self._device is None:
            first = next(n for n in self._nodes.values() if n.op in ("placeholder", "get_attr"))
            self._device = self._graph.call_function(getattr, (first, "device"))
        return self._device


def _new(draft: Draft | None) -> list[Value]:
    """The values of new numbers."""
    return [] if draft is None else [v for v in draft.operands.values() if v is not None]


def _local_names(weights: Sequence[Value], path: str) -> dict[Value, str]:
    prefix = f"{path}." if path else ""
    return {
        value: name.removeprefix(prefix)
        for value in weights
        for name in (*value.aliases, value.name)
        if name.startswith(prefix)
    }


def _plain(default: Any) -> Any:
    return default if isinstance(default, int | float | bool | str | None) else None

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
from collections.abc import Collection, Mapping, Sequence
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
from graphprune.frontends.torch.execute import rewritten
from graphprune.frontends.torch.findings import Call, Findings
from graphprune.frontends.torch.follow import Follows, Length, follow
from graphprune.frontends.torch.generated import (
    become,
    enter_autocast,
    in_mode,
    leave_autocast,
    only_evaluated,
    only_given,
    only_left_out,
    only_size,
    only_types,
)
from graphprune.frontends.torch.lift import CapturedModule
from graphprune.frontends.torch.reader import AUTOCAST, AUTOCAST_ARGUMENTS


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
        self._places: dict[Value, fx.Node] = {}
        self._lengths: dict[tuple[Value, int], fx.Node] = {}
        self._flags: dict[str, fx.Node] = {}
        self._device: fx.Node | None = None
        self._follows = Follows()
        self._before: fx.Node | None = None
        self._region: dict[str, Any] | None = None  # of mixed precision, and what entered it
        self._entered: fx.Node | None = None
        self._available: set[Value] = set()

    def emitted(self, call: Call, inline: bool, rigid: bool = False) -> fx.Graph:
        """The code of one call."""
        if any(isinstance(x, torch.Tensor) for x in pytree.tree_leaves(call.result)):
            raise LiftError(f"what {self._whose} returns is not in the graph")
        self._inputs(call)
        wanted = [v for v in pytree.tree_leaves(call.result) if isinstance(v, Value)]
        needed = self._needed(wanted)
        self._available = {*self._nodes, *self._captured.graph.weights.values()}
        self._available.update(value for op in needed for value in op.outputs)
        inner = {} if inline else self._called(needed, wanted)
        aside = set(inner.values()) | self._gone()
        self._follows = follow(
            self._captured,
            self._path,
            call,
            self._own(aside),
            [self._origins[op] for op in needed if op not in inner],
            aside,
            self._cuts,
            rigid,
        )
        self._refusals()
        done: set[str] = set()
        for op in needed:
            child = inner.get(op)
            if child is None:
                self._operation(op)
            elif child not in done:
                done.add(child)
                self._gradients(True)
                self._autocast(op.source.meta.get(AUTOCAST))
                self._call(child)
        self._gradients(True)
        self._autocast(None)
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
            whose = f"{self._whose}: its input {node.name}"
            self._graph.call_function(only_given, (node, whose))
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

    def _refusals(self) -> None:
        """Checks of what the code cannot follow."""
        follows = self._follows
        for value, dim, size in follows.fixed:
            if value in self._places:
                node = self._places[value]
                whose = f"{self._whose}: its input {node.name}"
                self._graph.call_function(only_size, (node, dim, size, whose))
        first = next((v for v in self._places if v.dtype.startswith(("float", "bfloat"))), None)
        if first is not None and follows.types is not None:
            node = self._places[first]
            whose = f"{self._whose}: its input {node.name}"
            self._graph.call_function(only_types, (node, follows.types, whose))
        if follows.evaluated:
            self._graph.call_function(only_evaluated, (self._mode(""), self._whose))

    # --- modules ----------------------------------------------------------------------------

    def _called(self, needed: Sequence[Op], wanted: Collection[Value]) -> dict[Op, str]:
        """The operations that lie in modules which can be called, and those modules' paths."""
        found: dict[Op, str] = {}
        users: dict[Value, list[Op]] = {}
        for op in needed:
            for value in op.inputs:
                if value is not None:
                    users.setdefault(value, []).append(op)
        refused: set[str] = set()
        inside: dict[str, list[Op]] = {}
        for op in needed:
            for path in _below(self._path, op.module):
                inside.setdefault(path, []).append(op)
        for path in sorted(inside, key=lambda p: p.count(".")):  # the outermost first
            ops = inside[path]
            if any(op in found for op in ops) or path in refused:
                continue
            if self._callable(path, set(ops), users, set(wanted)):
                found.update(dict.fromkeys(ops, path))
        return found

    def _inside(self) -> list[Op]:
        """The operations of all calls of the module, before rewrites."""
        return [
            op
            for op in self._captured.graph.ops
            if not self._path or op.module == self._path or _below(self._path, op.module)
        ]

    def _own(self, aside: set[str]) -> list[Op]:
        """The operations of one call of the module, but for those of some modules inside."""
        own = [op for op in self._inside() if aside.isdisjoint(_below(self._path, op.module))]
        return own[: len(own) // len(self._original.calls[self._path])]

    def _gone(self) -> set[str]:
        """Modules inside of which rewrites leave no operation; what they do in training is gone."""
        left = {path for op in self._ops for path in _below(self._path, op.module)}
        return {path for op in self._inside() for path in _below(self._path, op.module)} - left

    def _callable(
        self,
        path: str,
        ops: set[Op],
        users: Mapping[Value, Sequence[Op]],
        wanted: Collection[Value],
    ) -> bool:
        """Whether one call of a module does what some operations do, and nothing else is needed."""
        calls = self._original.calls.get(path, [])
        if not calls or len(calls) != len(self._original.calls[self._path]):
            return False
        args, result = calls[0].outer or (calls[0].args, calls[0].result)
        given = pytree.tree_leaves(args)
        if any(isinstance(x, torch.Tensor | float) for x in given):
            return False
        if any(type(x) is int and abs(x) > 1 for x in given):  # it may be a length
            return False
        made = {v for v in pytree.tree_leaves(result) if isinstance(v, Value)}
        taken = {v for v in given if isinstance(v, Value)}
        own = {value for op in ops for value in op.outputs}
        if taken & own or not made or not taken <= self._available:
            return False
        inputs = {v for op in ops for v in op.inputs if v is not None} - own
        prefix = f"{path}."
        for value in inputs - taken:
            names = (value.name, *value.aliases)
            if value.kind != "constant" and not any(n.startswith(prefix) for n in names):
                return False
        return not any(
            value in wanted or any(user not in ops for user in users.get(value, ()))
            for value in own - made
        )

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

    def _needed(self, wanted: Sequence[Value]) -> list[Op]:
        """The operations between the inputs and the results, in order.

        An operation that writes in place belongs if what it writes to shares memory with
        anything needed.
        """
        ops = self._ops
        makers = {value: op for op in ops for value in op.outputs}
        needed: set[Op] = set()
        todo = list(wanted)
        while todo:
            while todo:
                value = todo.pop()
                op = makers.get(value)
                if value not in self._nodes and op is not None and op not in needed:
                    needed.add(op)
                    todo.extend(v for v in op.inputs if v is not None)
            memory = {_base(v, makers) for op in needed for v in op.outputs}
            todo = [
                value
                for op in ops
                if op not in needed and _writes(op) and _base(op.outputs[0], makers) in memory
                for value in op.outputs
                if value not in self._nodes
            ]
        return [op for op in ops if op in needed]

    def _operation(self, op: Op) -> None:
        operands = [None if value is None else self._node(value) for value in op.inputs]
        outputs, op, follows = op.outputs, self._origins[op], self._follows
        self._gradients(op not in follows.without_gradients)
        changed = dict(self._cuts.attrs.get(op, {}))
        for attr, lengths in follows.lengths.get(op, {}).items():
            changed[attr] = self._lengthened(changed.get(attr, op.attrs.get(attr)), lengths)
        if op.attrs.get("device") is not None:
            changed["device"] = self._place()
        for attr, trained in follows.modes.get(op, {}).items():
            mode = self._mode(op.module)
            choice = (mode, trained, op.attrs.get(attr))
            plain = trained is True
            changed[attr] = mode if plain else self._graph.call_function(in_mode, choice)
        for attr, value in follows.dtypes.get(op, {}).items():
            changed[attr] = self._graph.call_function(getattr, (self._node(value), "dtype"))
        self._autocast(op.source.meta.get(AUTOCAST))
        target, args, kwargs = rewritten(op, changed, operands)
        node = self._graph.call_function(target, args, kwargs)
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
        if not hasattr(self._root, name):
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

    def _gradients(self, enabled: bool) -> None:
        """Enter or leave a stretch without gradients."""
        if enabled and self._before is not None:
            self._graph.call_function(torch._C._set_grad_enabled, (self._before,))
            self._before = None
        elif not enabled and self._before is None:
            self._before = self._graph.call_function(torch.is_grad_enabled)
            self._graph.call_function(torch._C._set_grad_enabled, (False,))

    def _autocast(self, held: dict[str, Any] | None) -> None:
        """Leave the region of mixed precision that the code is in, and enter another."""
        if held == self._region:
            return
        if self._entered is not None:
            self._graph.call_function(leave_autocast, (self._entered,))
            self._entered = None
        if held is not None:
            given = tuple(held.get(name) for name in AUTOCAST_ARGUMENTS)
            self._entered = self._graph.call_function(enter_autocast, given)
        self._region = held

    def _lengthened(self, number: Any, lengths: Any) -> Any:
        """A number, or several, with the factors that follow sizes of the inputs."""
        if isinstance(number, list | tuple):
            return [self._lengthened(n, found) for n, found in zip(number, lengths, strict=True)]
        for found in lengths or ():
            number = self._scaled(number, found)
        return number

    def _scaled(self, number: Any, found: Length) -> Any:
        """A number times a power of an input's size, or plus a multiple of it."""
        call = self._graph.call_function
        length = self._length(found.value, found.dim)
        if found.rest > 1:
            length = call(operator.floordiv, (length, found.rest))
        if found.step is not None:
            more = call(operator.mul, (call(operator.sub, (length, found.size)), found.step))
            return call(operator.add, (more, number))
        if found.whole and found.power == 1:
            if isinstance(number, int) and number % found.size == 0:
                times = number // found.size
                return length if times == 1 else call(operator.mul, (length, times))
            return call(operator.floordiv, (call(operator.mul, (length, number)), found.size))
        share = call(operator.truediv, (length, found.size))
        return call(operator.mul, (call(operator.pow, (share, found.power)), number))

    def _length(self, value: Value, dim: int) -> fx.Node:
        if (value, dim) not in self._lengths:
            size = torch.ops.aten.sym_size.int
            self._lengths[value, dim] = self._graph.call_function(size, (self._nodes[value], dim))
        return self._lengths[value, dim]


def _below(path: str, module: str) -> list[str]:
    """The paths of the modules between one and what lies in it, the latter's own too."""
    prefix = f"{path}." if path else ""
    if not module.startswith(prefix) or module == path:
        return []
    steps = module[len(prefix) :].split(".")
    return [prefix + ".".join(steps[: i + 1]) for i in range(len(steps))]


def _writes(op: Op) -> bool:
    schema = getattr(op.source.target, "_schema", None)
    return bool(schema is not None and schema.is_mutable and op.outputs)


def _base(value: Value, makers: Mapping[Value, Op]) -> Value:
    """The value that a view, or the result of an in-place operation, shares its memory with."""
    op = makers.get(value)
    schema = getattr(op.source.target, "_schema", None) if op is not None else None
    if op is None or schema is None or not schema.returns or not op.inputs:
        return value
    shares = schema.returns[0].alias_info is not None
    return _base(op.inputs[0], makers) if shares and op.inputs[0] is not None else value


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

"""Generated code: a narrowed stretch of the graph as a module.

It stands in for a submodule whose Python code cannot express the new widths. Parameters keep
their names. What depended on the batch size when the model was captured is computed from the
inputs again; dropout and batch statistics follow the module's train/eval mode.
"""

from __future__ import annotations

import dataclasses
import inspect
import operator
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import fx, nn
from torch.utils import _pytree as pytree

from graphprune.core.axes import Axis, leaves
from graphprune.core.cuts import Cuts
from graphprune.core.errors import LiftError
from graphprune.core.graph import Op, Value
from graphprune.core.indices import kept_length
from graphprune.engine.run import batch_axes
from graphprune.engine.tensors import cut_tensor
from graphprune.frontends.torch.execute import rewritten
from graphprune.frontends.torch.findings import Call
from graphprune.frontends.torch.generated import generated
from graphprune.frontends.torch.lift import TorchProgram

_MODE_ARGUMENTS = {
    "aten.dropout": "train",
    "aten.feature_dropout": "train",
    "aten.batch_norm": "training",
}


def emit(program: TorchProgram, cuts: Cuts, path: str, call: Call, root: nn.Module) -> nn.Module:
    """Generate the code of one submodule.

    Args:
        program: The captured model.
        cuts: The narrowed graph.
        path: The submodule's path; "" for the whole model.
        call: A call of it, in terms of the graph's values.
        root: Its narrowed copy, whose parameters and buffers the result takes over.

    Returns:
        A module with the submodule's signature, parameters and results.

    Raises:
        LiftError: The call's arguments or results are not all values of the graph.
    """
    return _Emitter(program, cuts, path, root).emit(call)


class _Emitter:
    def __init__(self, program: TorchProgram, cuts: Cuts, path: str, root: nn.Module) -> None:
        self._program = program
        self._cuts = cuts
        self._path = path
        self._root = root
        self._graph = fx.Graph()
        self._nodes: dict[Value, fx.Node] = {}
        self._names = _local_names(program, path)
        self._counts = {axis: len(kept) for axis, kept in cuts.keep.items()}
        self._batches = _batch_axes(cuts, program)
        self._batch_nodes: dict[Axis, fx.Node] = {}
        self._training: fx.Node | None = None
        self._place: fx.Node | None = None

    def emit(self, call: Call) -> nn.Module:
        self._inputs(call)
        wanted = [v for v in pytree.tree_leaves(call.result) if isinstance(v, Value)]
        for op in self._needed(wanted):
            self._operation(op)
        if any(isinstance(x, torch.Tensor) for x in pytree.tree_leaves(call.result)):
            raise LiftError(f"what {self._path or 'the model'} returns is not in the graph")
        self._output(call)
        module = generated(f"Narrowed{type(self._root).__name__}", self._graph)
        _carry_over(self._root, module)
        return module

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
                    raise LiftError(f"{self._path or 'the model'} takes *{name}")
                continue
            default = parameter.default
            args_ = () if default is inspect.Parameter.empty else (_plain(default),)
            node = (
                self._graph.placeholder(name, default_value=args_[0])
                if args_
                else self._graph.placeholder(name)
            )
            self._unpack(node, bound.get(name))

    def _unpack(self, node: fx.Node, tree: Any) -> None:
        if isinstance(tree, Value):
            self._nodes.setdefault(tree, node)
            self._note_batch(tree, node)
        elif isinstance(tree, tuple | list):
            for i, item in enumerate(tree):
                self._unpack(self._graph.call_function(operator.getitem, (node, i)), item)
        elif isinstance(tree, dict):
            for key, item in tree.items():
                self._unpack(self._graph.call_function(operator.getitem, (node, key)), item)
        elif isinstance(tree, torch.Tensor):
            raise LiftError(f"an argument of {self._path or 'the model'} is not in the graph")
        elif not node.users and node.op == "call_function":
            self._graph.erase_node(node)

    def _output(self, call: Call) -> None:
        self._graph.output(self._tree(call.result))

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

    # --- operations -------------------------------------------------------------------------

    def _needed(self, wanted: Sequence[Value]) -> list[Op]:
        """The operations between the inputs and the results, in order.

        An operation that writes in place belongs if what it writes to shares memory with
        anything needed.
        """
        ops = self._program.graph.ops
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
        changed = self._sizes(op)
        if op.attrs.get("device") is not None:
            changed["device"] = self._device()
        flag = _MODE_ARGUMENTS.get(op.type)
        if flag is not None and flag in op.attrs:
            changed[flag] = self._mode()
        target, args, kwargs = rewritten(op, changed, operands)
        node = self._graph.call_function(target, args, kwargs)
        several = isinstance(op.source.meta.get("val"), list | tuple)
        for i, value in enumerate(op.outputs):
            self._nodes[value] = (
                self._graph.call_function(operator.getitem, (node, i)) if several else node
            )

    def _node(self, value: Value) -> fx.Node:
        if value not in self._nodes:
            name = self._names.get(value)
            if value.kind == "constant":
                name = self._constant(value)
            if name is None:
                raise LiftError(
                    f"{value.name} is used by {self._path or 'the model'} but lies outside"
                )
            self._nodes[value] = self._graph.get_attr(name)
        return self._nodes[value]

    def _constant(self, value: Value) -> str:
        """A tensor that the Python code makes of literals becomes a buffer outside the state."""
        name = value.name.replace(".", "_")
        if not hasattr(self._root, name):
            tensor = cut_tensor(value.tensor, self._cuts.weights.get(value, ()))
            self._root.register_buffer(name, tensor.clone(), persistent=False)
        return name

    def _mode(self) -> fx.Node:
        if self._training is None:
            self._training = self._graph.create_node("get_attr", "training")
        return self._training

    def _device(self) -> fx.Node:
        """The device of the first input, for tensors that are made on the way."""
        if self._place is None:
            first = next(n for n in self._nodes.values() if n.op in ("placeholder", "get_attr"))
            self._place = self._graph.call_function(getattr, (first, "device"))
        return self._place

    # --- batch size -------------------------------------------------------------------------

    def _note_batch(self, value: Value, node: fx.Node) -> None:
        """Find a batch size in an input: a dimension `batch x rest`."""
        for number, dim in enumerate(self._cuts.deps.dims[value]):
            axis = next(iter(leaves(dim)), None)
            if axis is None or axis not in self._batches or axis in self._batch_nodes:
                continue
            size = self._graph.call_function(torch.ops.aten.sym_size.int, (node, number))
            rest = kept_length(dim, self._counts) // axis.size
            self._batch_nodes[axis] = (
                self._graph.call_function(operator.floordiv, (size, rest)) if rest > 1 else size
            )

    def _sizes(self, op: Op) -> dict[str, Any]:
        changed = dict(self._cuts.attrs.get(op, {}))
        for attr, dims in self._cuts.deps.effects[op].sizes.items():
            if not isinstance(dims, list) or attr not in op.attrs or attr == "split_sizes":
                continue
            sizes = list(changed.get(attr, op.attrs[attr]))
            for i, dim in enumerate(dims):
                if dim is not None and sizes[i] != -1:
                    sizes[i] = self._times_batch(sizes[i], leaves(dim))
            changed[attr] = sizes
        return changed

    def _times_batch(self, size: int, factors: Sequence[Axis]) -> fx.Node | int:
        """A size with the batch size among its factors, if there is one."""
        axis = next((axis for axis in factors if axis in self._batch_nodes), None)
        if axis is None:
            return size
        node, rest = self._batch_nodes[axis], size // axis.size
        return node if rest == 1 else self._graph.call_function(operator.mul, (node, rest))


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


def _batch_axes(cuts: Cuts, program: TorchProgram) -> list[Axis]:
    """The axis of the samples; of the inputs of every part where parts were captured."""
    found = list(batch_axes(cuts.deps))
    return found if program.original is not None else found[:1]


def _local_names(program: TorchProgram, path: str) -> dict[Value, str]:
    prefix = f"{path}." if path else ""
    return {
        value: name.removeprefix(prefix)
        for value in program.graph.weights.values()
        for name in (*value.aliases, value.name)
        if name.startswith(prefix)
    }


def _plain(default: Any) -> Any:
    return default if isinstance(default, int | float | bool | str | None) else None


def _carry_over(source: nn.Module, target: nn.Module) -> None:
    """Give a generated module all that the one it replaces holds: others may look for it."""
    own = nn.Module().__dict__.keys() | {"forward"}
    for name, held in source.__dict__.items():
        if name not in own and name not in target.__dict__:
            target.__dict__[name] = held
    if hasattr(target, "_qkv_same_embed_dim"):
        # Tells nn.TransformerEncoderLayer not to pass the weights to its fused kernel, which
        # takes embed_dim for the inner width.
        target.__dict__["_qkv_same_embed_dim"] = False
    for holder in ("_parameters", "_buffers", "_modules", "_non_persistent_buffers_set"):
        target.__dict__[holder] = source.__dict__[holder].copy()


def replace(model: nn.Module, path: str, new: nn.Module) -> nn.Module:
    """Put a module in the place of another.

    Returns:
        The model: `new` itself where the path is "".
    """
    if not path:
        return new
    parent, _, name = path.rpartition(".")
    owner = model.get_submodule(parent)
    owner._modules[name] = new
    return model


def covered(path: str, others: Mapping[str, Any] | set[str]) -> bool:
    """Whether a path lies below one of the others."""
    return any(path != other and (other == "" or path.startswith(f"{other}.")) for other in others)

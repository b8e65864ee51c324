"""Reading an exported program into the neutral graph."""

from __future__ import annotations

import operator
from collections.abc import Iterator
from functools import lru_cache
from typing import Any

import torch
from torch import fx, nn
from torch.export.graph_signature import InputKind
from torch.utils import _pytree as pytree

from graphprune.core.errors import LiftError
from graphprune.core.graph import Evaluator, Graph, Kind, Op, Value
from graphprune.frontends.torch.traced import AUTOCAST, AUTOCAST_ARGUMENTS, Trace

_KINDS: dict[InputKind, Kind] = {
    InputKind.PARAMETER: "parameter",
    InputKind.BUFFER: "buffer",
    InputKind.CONSTANT_TENSOR: "constant",
}

_WRAPPERS = ("wrap_with_set_grad_enabled", "wrap_with_autocast")  # of code that is inlined


def traced(exported: torch.export.ExportedProgram) -> Trace:
    """The calls of an exported program, those of its regions among the others."""
    inline_wrappers(exported.graph_module)
    places = {
        spec.arg.name: (_KINDS[spec.kind], str(spec.target))
        for spec in exported.graph_signature.input_specs
        if spec.kind in _KINDS
    }
    tensors = {**exported.state_dict, **exported.constants}
    return Trace(exported.graph_module.graph, places, tensors)


class Reader:
    """Reads an exported program into the neutral graph."""

    def __init__(self, model: nn.Module, trace: Trace, engine: Evaluator) -> None:
        self.graph = Graph([], [], [], {}, engine)
        self.values: dict[fx.Node, Value | tuple[Value | None, ...] | None] = {}
        self._places = trace.places
        self._live: dict[str, torch.Tensor] = {
            **trace.tensors,
            **dict(model.named_buffers(remove_duplicate=False)),
            **dict(model.named_parameters(remove_duplicate=False)),
        }
        self._by_id: dict[int, Value] = {}
        self._scalars: set[fx.Node] = set()
        self._bases: dict[Value, Value] = {}  # of what shares the memory of another value
        self._names: dict[int, list[str]] = {}
        for name, tensor in self._live.items():
            self._names.setdefault(id(tensor), []).append(name)

    def read(self, node: fx.Node) -> None:
        """Add one FX node."""
        if node.op == "placeholder":
            self._placeholder(node)
        elif node.op == "call_function" and node.target is operator.getitem:
            source = self.values[node.args[0]]  # type: ignore[index]
            self.values[node] = source[node.args[1]] if isinstance(source, tuple) else None  # type: ignore[index]
        elif node.op == "call_function":
            self._operation(node)
        elif node.op == "output":
            nodes = [n for n in pytree.tree_leaves(node.args) if isinstance(n, fx.Node)]
            found = [self.values.get(n) for n in nodes]
            self.graph.outputs = [v for v in found if isinstance(v, Value)]

    def _placeholder(self, node: fx.Node) -> None:
        fake = node.meta.get("val")
        kind, name = self._places.get(node.name, (None, ""))
        if not isinstance(fake, torch.Tensor) or (kind is not None and not node.users):
            self.values[node] = None  # a weight that nothing uses tells nothing of its axes
        elif kind is None:
            value = Value(node.name, tuple(fake.shape), _dtype(fake), "input")
            self.graph.inputs.append(value)
            self.values[node] = value
        else:
            tensor = self._live[name]
            if id(tensor) not in self._by_id:
                name, *others = self._names[id(tensor)]
                value = Value(name, tuple(tensor.shape), _dtype(tensor), kind)
                value.aliases, value.tensor = tuple(others), tensor
                self._by_id[id(tensor)] = self.graph.weights[name] = value
            self.values[node] = self._by_id[id(tensor)]

    def _operation(self, node: fx.Node) -> None:
        fake = node.meta.get("val")
        if _is_scalar(node, fake):  # computed to be checked: no tensor depends on it
            self._scalars.add(node)
            return
        self._check_operands(node)
        inputs, attrs = self._arguments(node)
        several = isinstance(fake, list | tuple)
        _check_sizes(node, fake)
        outputs = [
            Value(f"{node.name}.{i}" if several else node.name, tuple(item.shape), _dtype(item))
            if isinstance(item, torch.Tensor)
            else None
            for i, item in enumerate(fake if isinstance(fake, list | tuple) else [fake])
        ]
        self.values[node] = tuple(outputs) if several else outputs[0]
        stack = node.meta.get("nn_module_stack") or {"": ("", "")}
        self.graph.ops.append(
            Op(
                name=node.name,
                type=type_of(node),
                inputs=inputs,
                outputs=[value for value in outputs if value is not None],
                attrs=attrs,
                module=next(reversed(stack.values()))[0],
                source=node,
                unread=_unread(node, len(fake)) if isinstance(fake, list | tuple) else frozenset(),
            )
        )
        self._note_memory(node, self.graph.ops[-1])

    def _note_memory(self, node: fx.Node, op: Op) -> None:
        """Note whose memory an operation shares, and the weight that it writes to."""
        schema = getattr(node.target, "_schema", None)
        first = op.inputs[0] if op.inputs else None
        if first is None or schema is None:
            return
        base = self._bases.get(first, first)
        if schema.returns and schema.returns[0].alias_info is not None:
            self._bases.update(dict.fromkeys(op.outputs, base))
        if schema.is_mutable and base.is_weight:
            self.graph.written.add(base)

    def _check_operands(self, node: fx.Node) -> None:
        _check_code(node)
        if not self._scalars.isdisjoint(node.all_input_nodes):
            raise LiftError(
                f"{type_of(node)} in {_where(node)} takes a number that depends on the data, "
                "which cannot be captured: shrink the submodules around it"
            )

    def _arguments(self, node: fx.Node) -> tuple[list[Value | None], dict[str, Any]]:
        inputs: list[Value | None] = []
        attrs: dict[str, Any] = {}
        for name, tensors, given in bound_arguments(node):
            if isinstance(given, fx.Node) or (tensors and given is None):
                found = self.values.get(given) if given is not None else None
                inputs.extend(found if isinstance(found, tuple) else [found])
            elif isinstance(given, list | tuple) and any(isinstance(g, fx.Node) for g in given):
                inputs.extend(self.values.get(g) if g is not None else None for g in given)  # type: ignore[misc]
            else:
                attrs[name] = given
        return inputs, attrs


def _unread(node: fx.Node, number: int) -> frozenset[int]:
    """Numbers of the results, of so many, that no node reads."""
    if any(user.target is not operator.getitem for user in node.users):
        return frozenset()
    return frozenset(range(number)) - {int(x.args[1]) for x in node.users if x.users}  # type: ignore[arg-type]


def _is_scalar(node: fx.Node, fake: Any) -> bool:
    """Whether an operation yields no tensor and changes none."""
    schema = getattr(node.target, "_schema", None)
    if schema is not None and schema.is_mutable:
        return False
    if isinstance(node.target, torch._ops.HigherOrderOperator):
        return False
    return not any(isinstance(leaf, torch.Tensor) for leaf in pytree.tree_leaves(fake))


def _where(node: fx.Node) -> str:
    stack = node.meta.get("nn_module_stack") or {"": ("", "")}
    return next(reversed(stack.values()))[0] or "the top-level module"


def check_readable(program: torch.export.ExportedProgram) -> None:
    """See that a captured program can be read: every size is known, and what is run.

    Raises:
        LiftError: The size of a tensor depends on the data, or an operation takes code; the message
            names the operation.
    """
    for node in program.graph.nodes:
        if node.op == "call_function":
            _check_sizes(node, node.meta.get("val"))
            if getattr(node.target, "__name__", "") not in _WRAPPERS:
                _check_code(node)


def _check_code(node: fx.Node) -> None:
    if any(_is_body(node.graph.owning_module, given) for given in node.all_input_nodes):
        raise LiftError(
            f"{type_of(node)} in {_where(node)} takes code that it runs by itself, which cannot be "
            "followed: shrink the submodules around it"
        )


def _check_sizes(node: fx.Node, fake: Any) -> None:
    for item in fake if isinstance(fake, list | tuple) else [fake]:
        sizes = item.shape if isinstance(item, torch.Tensor) else ()
        if not all(isinstance(size, int) for size in sizes):
            raise LiftError(
                f"{type_of(node)} in {_where(node)} makes a tensor whose size depends on the data, "
                "which cannot be captured: shrink the submodules around it"
            )


def _dtype(tensor: torch.Tensor) -> str:
    return str(tensor.dtype).removeprefix("torch.")


def type_of(node: fx.Node) -> str:
    """`aten.conv2d` for `torch.ops.aten.conv2d.default`; in-place forms go by the same type."""
    target = node.target
    if not isinstance(target, torch._ops.OpOverload):
        return getattr(target, "__name__", str(target))
    space, name = target._schema.name.split("::")
    if name.endswith("_") and not name.endswith("__"):
        name = name[:-1]
    return f"{space}.{name}"


@lru_cache(maxsize=2048)
def _parameters(target: Any) -> tuple[tuple[str, bool, Any], ...]:
    """Name, whether it is a tensor, and default of each of an operator's parameters."""
    return tuple(
        (a.name, "Tensor" in str(a.type), a.default_value if a.has_default_value() else None)
        for a in target._schema.arguments
    )


def bound_arguments(node: fx.Node) -> Iterator[tuple[str, bool, Any]]:
    """Name, whether it is a tensor, and value of each argument, defaults filled in."""
    if not isinstance(node.target, torch._ops.OpOverload):
        for i, given in enumerate(node.args):
            yield str(i), False, given
        return
    for i, (name, tensors, default) in enumerate(_parameters(node.target)):
        given = node.args[i] if i < len(node.args) else node.kwargs.get(name, default)
        yield name, tensors, given


def inline_wrappers(module: fx.GraphModule) -> None:
    """Inline the bodies of no_grad and autocast regions; operations keep their precision's mark."""
    graph = module.graph
    for node in list(graph.nodes):
        name = getattr(node.target, "__name__", "")
        if node.op != "call_function" or name not in _WRAPPERS:
            continue
        at = next(i for i, arg in enumerate(node.args) if _is_body(module, arg))
        body = getattr(module, node.args[at].target)
        inline_wrappers(body)
        if name == "wrap_with_autocast":
            held = dict(zip(AUTOCAST_ARGUMENTS, node.args, strict=False))
            for inner in body.graph.nodes:
                inner.meta.setdefault(AUTOCAST, held)
        holes = [n for n in body.graph.nodes if n.op == "placeholder"]
        swap = dict(zip(holes, node.args[at + 1 :], strict=True))
        with graph.inserting_before(node):
            results = graph.graph_copy(body.graph, swap)
        _replace_results(node, results)
    for node in list(graph.nodes):
        if node.op == "get_attr" and not node.users:
            graph.erase_node(node)


def _is_body(module: nn.Module | None, arg: object) -> bool:
    return (
        isinstance(arg, fx.Node)
        and arg.op == "get_attr"
        and isinstance(getattr(module, str(arg.target), None), fx.GraphModule)
    )


def _replace_results(node: fx.Node, results: Any) -> None:
    for user in list(node.users):
        if user.target is operator.getitem:
            user.replace_all_uses_with(results[user.args[1]])
            user.graph.erase_node(user)
    if node.users:
        node.replace_all_uses_with(results)
    node.graph.erase_node(node)

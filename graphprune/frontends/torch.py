"""lift: `torch.nn.Module` → torch.export (non-strict, eval mode) → the neutral graph.

The exported program is not decomposed: export keeps linear, conv, batch_norm, layer_norm,
attention and lstm whole, which is the level at which rules are stated.
"""

from __future__ import annotations

import logging
import operator
import warnings
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import lru_cache
from typing import Any, TypeAlias

import torch
from torch import fx, nn
from torch.export.graph_signature import InputKind
from torch.utils import _pytree as pytree

from graphprune.errors import GraphPruneError, LiftError
from graphprune.graph import Graph, Op, Value

Inputs: TypeAlias = "tuple[tuple[Any, ...], dict[str, Any]]"

_KINDS = {
    InputKind.PARAMETER: "parameter",
    InputKind.BUFFER: "buffer",
    InputKind.CONSTANT_TENSOR: "constant",
}


@dataclass
class TorchProgram:
    """A captured model.

    Attributes:
        model: The caller's module; only ever read.
        inputs: The example inputs it was captured with: positional and keyword arguments.
        graph: The neutral graph.
        code: The captured FX graph, without higher-order wrappers.
        values: The value that each FX node yields; a tuple of values where it yields several.
        out_spec: Structure of what the model returns.
        seconds: How long torch.export took.
    """

    model: nn.Module
    inputs: Inputs
    graph: Graph
    code: fx.Graph
    values: dict[fx.Node, Value | tuple[Value | None, ...] | None] = field(default_factory=dict)
    out_spec: pytree.TreeSpec | None = None
    seconds: float = 0.0

    def operation(self, node: fx.Node) -> Op | None:
        """The neutral operation of an FX node, if it has one."""
        return self._ops.get(node)

    def __post_init__(self) -> None:
        self._ops = {op.source: op for op in self.graph.ops}

    def batch(self) -> int:
        """Samples in the example inputs: the first dimension of the first of them, or 1."""
        first = self.graph.inputs[0].shape if self.graph.inputs else ()
        return first[0] if first else 1

    def outside(self) -> int:
        """Elements of the parameters that the graph does not reach."""
        reached = {id(value.tensor) for value in self.graph.weights.values()}
        return sum(p.numel() for p in self.model.parameters() if id(p) not in reached)

    def flat_inputs(self) -> list[torch.Tensor]:
        """The tensors among the example inputs, in the graph's order."""
        return [leaf for leaf in pytree.tree_leaves(self.inputs) if isinstance(leaf, torch.Tensor)]


@contextmanager
def preserved(model: nn.Module) -> Iterator[None]:
    """Undo whatever a forward pass leaves on a module: modes, attributes, buffers, caches."""
    saved = [_state(module) for module in model.modules()]
    fast = torch.backends.mha.get_fastpath_enabled()
    torch.backends.mha.set_fastpath_enabled(False)  # a fused op that hides its weights' roles
    try:
        yield
    finally:
        torch.backends.mha.set_fastpath_enabled(fast)
        for restore in saved:
            for holder, content in restore:
                holder.clear()
                holder.update(content) if isinstance(holder, dict) else holder.extend(content)


def _state(module: nn.Module) -> list[tuple[Any, Any]]:
    """The mutable containers of a module, with copies of what they hold."""
    plain = [v for v in module.__dict__.values() if type(v) in (dict, list)]
    return [(holder, holder.copy()) for holder in (module.__dict__, *plain)]


def lift(model: nn.Module, inputs: Inputs) -> TorchProgram:
    """Capture a module.

    Args:
        model: Any module that torch.export can trace.
        inputs: Positional and keyword arguments for its `forward`.

    Raises:
        LiftError: The module cannot be captured; the message names the cause and the way out.
    """
    with preserved(model):
        model.eval()
        program = _program(model, inputs)
        if _unreached(model, program.graph):
            model.train()
            _add_training(program, inputs)
    return program


def check(model: nn.Module) -> None:
    """Refuse what cannot be pruned, by name.

    Raises:
        LiftError: The module is scripted, quantized, on the meta device, holds no parameters,
            or holds weights that are not finite.
    """
    if isinstance(model, torch.jit.ScriptModule):
        raise LiftError("a scripted module cannot be captured: pass the nn.Module it was made from")
    for name, module in model.named_modules():
        where = f"{name or 'the model'} ({type(module).__name__})"
        if isinstance(module, torch.jit.ScriptModule):
            raise LiftError(f"{where} is scripted: replace it by the nn.Module it was made from")
        if ".quantized" in type(module).__module__:
            raise LiftError(f"{where} is quantized: prune the float model, then quantize the result")
    parameters = list(model.named_parameters())
    if not parameters:
        raise LiftError("the model has no parameters: there is nothing to prune")
    for name, tensor in [*parameters, *model.named_buffers()]:
        if isinstance(tensor, nn.parameter.UninitializedTensorMixin):
            raise LiftError(f"{name} is not initialized: run one forward pass first (lazy module)")
        if tensor.is_meta:
            raise LiftError(f"{name} is on the meta device: load the weights first (model.to_empty)")
        if tensor.is_floating_point() and not bool(torch.isfinite(tensor.sum())):
            if name in dict(parameters) and not bool(torch.isfinite(tensor).all()):
                raise LiftError(f"{name} holds NaN or infinite values: repair the weights first")


def _program(model: nn.Module, inputs: Inputs) -> TorchProgram:
    import time

    start = time.perf_counter()
    exported = _export(model, inputs)
    seconds = time.perf_counter() - start
    code = exported.graph_module.graph
    _inline_wrappers(exported.graph_module)
    reader = _Reader(model, exported)
    for node in code.nodes:
        reader.read(node)
    return TorchProgram(
        model=model,
        inputs=inputs,
        graph=reader.graph,
        code=code,
        values=reader.values,
        out_spec=exported.call_spec.out_spec,
        seconds=seconds,
    )


def _export(model: nn.Module, inputs: Inputs) -> torch.export.ExportedProgram:
    args, kwargs = inputs
    level = logging.root.manager.disable
    logging.disable(logging.WARNING)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            return torch.export.export(model, args, kwargs, strict=False)
    except GraphPruneError:
        raise
    except Exception as error:
        raise _explained(model, inputs, error) from error
    finally:
        logging.disable(level)


def _explained(model: nn.Module, inputs: Inputs, error: Exception) -> LiftError:
    """Tell inputs that the model rejects from code that cannot be captured."""
    shapes = [tuple(x.shape) for x in pytree.tree_leaves(inputs) if isinstance(x, torch.Tensor)]
    try:
        with torch.no_grad():
            model(*inputs[0], **inputs[1])
    except Exception as eager:
        return LiftError(
            f"the model rejects example inputs of shapes {shapes}: {_first_line(eager)}\n"
            "Pass inputs that it accepts: graphprune.shrink(model, ratio, example_inputs=(x,))"
        )
    return LiftError(
        f"torch.export cannot capture {type(model).__name__}: {_first_line(error)}\n"
        "Rewrite the operation named above without data-dependent Python control flow, or shrink "
        "the submodule that holds the weights: model.backbone = graphprune.shrink(model.backbone, "
        "ratio, example_inputs=(x,))"
    )


def _first_line(error: Exception) -> str:
    lines = [line for line in str(error).splitlines() if line.strip()]
    return f"{type(error).__name__}: {lines[0] if lines else ''}"


def _unreached(model: nn.Module, graph: Graph) -> bool:
    reached = {id(value.tensor) for value in graph.weights.values()}
    return any(id(parameter) not in reached for parameter in model.parameters())


def _add_training(program: TorchProgram, inputs: Inputs) -> None:
    """Let weights that only training mode reaches (auxiliary heads) take part in the analysis."""
    try:
        extra = _program(program.model, inputs).graph
    except LiftError:
        return
    known = {id(value.tensor): value for value in program.graph.weights.values()}
    swap = dict(zip(extra.inputs, program.graph.inputs, strict=True))
    for value in extra.weights.values():
        if id(value.tensor) in known:
            swap[value] = known[id(value.tensor)]
        else:
            program.graph.weights.setdefault(value.name, value)
    for op in extra.ops:
        op.inputs = [swap.get(v, v) if v is not None else None for v in op.inputs]
        op.name = f"training/{op.name}"
        for value in op.outputs:
            value.name = f"training/{value.name}"
    program.graph.training = extra.ops
    program.graph.outputs = program.graph.outputs + [swap.get(v, v) for v in extra.outputs]


def _inline_wrappers(module: fx.GraphModule) -> None:
    """Inline the bodies of no_grad and of disabled autocast regions."""
    graph = module.graph
    for node in list(graph.nodes):
        name = getattr(node.target, "__name__", "")
        if node.op != "call_function" or name not in (
            "wrap_with_set_grad_enabled",
            "wrap_with_autocast",
        ):
            continue
        if name == "wrap_with_autocast" and node.args[2]:
            continue  # an enabled autocast changes precision: left whole, hence locked
        at = next(i for i, arg in enumerate(node.args) if _is_body(module, arg))
        body = getattr(module, node.args[at].target)  # type: ignore[union-attr, arg-type]
        _inline_wrappers(body)
        holes = [n for n in body.graph.nodes if n.op == "placeholder"]
        swap = dict(zip(holes, node.args[at + 1 :], strict=True))
        with graph.inserting_before(node):
            results = graph.graph_copy(body.graph, swap)  # type: ignore[arg-type]
        _replace_results(node, results)
    for node in list(graph.nodes):
        if node.op == "get_attr" and not node.users:
            graph.erase_node(node)


def _is_body(module: fx.GraphModule, arg: object) -> bool:
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


class _Reader:
    """Reads an exported program into the neutral graph."""

    def __init__(self, model: nn.Module, exported: torch.export.ExportedProgram) -> None:
        self.graph = Graph([], [], [], {})
        self.values: dict[fx.Node, Value | tuple[Value | None, ...] | None] = {}
        self._specs = {spec.arg.name: spec for spec in exported.graph_signature.input_specs}
        self._live: dict[str, torch.Tensor] = {
            **exported.constants,
            **dict(model.named_buffers(remove_duplicate=False)),
            **dict(model.named_parameters(remove_duplicate=False)),
        }
        self._by_id: dict[int, Value] = {}
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
            found = [self.values.get(n) for n in node.all_input_nodes]
            self.graph.outputs = [v for v in found if isinstance(v, Value)]

    def _placeholder(self, node: fx.Node) -> None:
        spec, fake = self._specs[node.name], node.meta.get("val")
        kind = _KINDS.get(spec.kind)
        if not isinstance(fake, torch.Tensor):
            self.values[node] = None
        elif kind is None:
            value = Value(node.name, tuple(fake.shape), _dtype(fake), "input")
            self.graph.inputs.append(value)
            self.values[node] = value
        else:
            assert spec.target is not None
            tensor = self._live[spec.target]
            value = self._by_id.get(id(tensor))  # type: ignore[assignment]
            if value is None:
                names = self._names[id(tensor)]
                value = Value(spec.target, tuple(tensor.shape), _dtype(tensor), kind)  # type: ignore[arg-type]
                value.aliases = tuple(name for name in names if name != spec.target)
                value.tensor = tensor
                self._by_id[id(tensor)] = value
                self.graph.weights[spec.target] = value
            self.values[node] = value

    def _operation(self, node: fx.Node) -> None:
        inputs, attrs = self._arguments(node)
        fake = node.meta.get("val")
        several = isinstance(fake, list | tuple)
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
            )
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


def as_inputs(example: Any) -> Inputs | None:
    """Example inputs as positional and keyword arguments.

    Args:
        example: A tensor, a tuple or list of positional arguments, a mapping of keyword
            arguments, or None.

    Raises:
        LiftError: It is none of these.
    """
    if example is None:
        return None
    if isinstance(example, torch.Tensor):
        return (example,), {}
    if isinstance(example, Mapping):
        return (), dict(example)
    if isinstance(example, Sequence) and not isinstance(example, str):
        return tuple(example), {}
    raise LiftError(
        f"example_inputs is a {type(example).__name__}: pass a tensor, a tuple of positional "
        "arguments, or a dict of keyword arguments"
    )

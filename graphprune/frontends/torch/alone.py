"""A module captured by itself, again and again, with other inputs."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import redirect_stderr, redirect_stdout
from io import StringIO
from typing import Any, NamedTuple

import torch
from torch import fx, nn
from torch.utils import _pytree as pytree

from graphprune.core.axes import Axis, leaves
from graphprune.core.cuts import Cuts
from graphprune.core.graph import Op, Value
from graphprune.core.program import Inputs
from graphprune.engine.copying import copied
from graphprune.engine.state import preserved, quiet
from graphprune.frontends.torch.captured import CapturedModule
from graphprune.frontends.torch.composed import take_apart
from graphprune.frontends.torch.findings import Call
from graphprune.frontends.torch.reader import bound_arguments
from graphprune.frontends.torch.tables import tables_preserved
from graphprune.frontends.torch.traced import GRADIENTS
from graphprune.frontends.torch.tracing import trace

_WRAPPERS = ("wrap_with_set_grad_enabled", "wrap_with_autocast")


_LAYOUT = torch.ops.aten.contiguous.default
"""A copy to another layout of memory, which a capture shows only where the kernel before it wrote
another one: dropout in attention has another kernel than attention without."""


def same_steps(ops: Sequence[Op], steps: Sequence[Step]) -> bool:
    """Whether a capture has the graph's operations, in their order."""
    return [op.source.target for op in ops] == [step.target for step in steps]


def is_layout(target: Any) -> bool:
    """Whether an operation only changes the layout in memory."""
    return bool(target == _LAYOUT)


def read_by(node: fx.Node) -> Any:
    """What an operation reads first, whatever its layout in memory."""
    held: Any = node.args[0]
    while isinstance(held, fx.Node) and is_layout(held.target):
        held = held.args[0]
    return held


class Step(NamedTuple):
    """One operation of a capture: what it is, its arguments without tensors, gradients."""

    target: Any
    given: dict[str, Any]
    grad: bool
    node: fx.Node


class Alone:
    """A module by itself, to be captured with other inputs."""

    def __init__(
        self, captured: CapturedModule, path: str, call: Call, aside: set[str], cuts: Cuts
    ) -> None:
        self._module = captured.model.get_submodule(path)
        self._device = next((x.device for x in self._module.parameters()), None)
        self._dims = cuts.deps.dims
        self._call = call
        prefix = f"{path}." if path else ""
        weights = captured.graph.weights.items()
        self._weights = [v for name, v in weights if name.startswith(prefix)]
        self._aside = tuple(f"inner.{name.removeprefix(prefix)}" for name in aside)
        if captured.builds:  # as the model was captured
            self._module = self._with_tables()

    def types(self) -> tuple[torch.dtype, ...] | None:
        """The type of the first input of floating point; None where there is none."""
        value = self.first()
        return None if value is None or value.is_weight else (getattr(torch, value.dtype),)

    def first(self) -> Value | None:
        """The first input of floating point, or else the first such weight."""
        inputs = (x for x in pytree.tree_leaves(self._call.args) if isinstance(x, Value))
        values = (*inputs, *self._weights)
        return next((v for v in values if getattr(torch, v.dtype).is_floating_point), None)

    def traced(
        self,
        sizes: Mapping[Axis, int],
        dtype: torch.dtype | None = None,
        training: bool = False,
    ) -> list[Step] | None:
        """The operations of the module's own code; None where it refuses the inputs.

        Those that only change the layout in memory are left out.
        """
        module = self._module
        args, kwargs = self._inputs(sizes, dtype)
        try:
            if dtype is not None:
                module = copied(module).to(dtype)
            silent = redirect_stdout(StringIO()), redirect_stderr(StringIO())
            with preserved(module), tables_preserved(module), quiet(), silent[0], silent[1]:
                module.train(training)
                nodes = list(_calls(_Inner(module), (tuple(args), kwargs)))
        except Exception:  # whatever the caller's code raises for inputs that it does not take
            return None
        return [
            Step(node.target, dict(_given(node)), grad, node)
            for node, grad in nodes
            if not is_layout(node.target) and not self._inside(node)
        ]

    def _with_tables(self) -> nn.Module:
        """A copy of the module that has made the tables that its code keeps on it."""
        module = copied(self._module).eval()
        args, kwargs = pytree.tree_map_only(torch.Tensor, torch.clone, self._inputs({}, None))
        try:
            with torch.no_grad(), quiet():
                module.forward(*args, **kwargs)
        except Exception:  # it is then refused as it is
            return self._module
        return module

    def _inputs(self, sizes: Mapping[Axis, int], dtype: torch.dtype | None) -> Inputs:
        """Inputs of some sizes and of one type, all zeros."""
        inputs: dict[Value, torch.Tensor] = {}

        def made(value: Value) -> torch.Tensor:
            if value.is_weight:
                return value.tensor  # type: ignore[no-any-return]
            if value not in inputs:
                kind = getattr(torch, value.dtype)
                kind = dtype if dtype is not None and kind.is_floating_point else kind
                dims = self._dims[value]
                shape = [_resized(d, n, sizes) for d, n in zip(dims, value.shape, strict=True)]
                inputs[value] = torch.zeros(shape, dtype=kind, device=self._device)
            return inputs[value]

        found: Inputs = pytree.tree_map_only(Value, made, self._call.args)
        return found

    def _inside(self, node: fx.Node) -> bool:
        """Whether a module makes it whose code is not its own."""
        stack = node.meta.get("nn_module_stack") or {"": ("", "")}
        path = next(reversed(stack.values()))[0]
        return any(path == held or path.startswith(f"{held}.") for held in self._aside)


class _Inner(nn.Module):
    """Runs another module's code without its hooks, which stay where they are."""

    def __init__(self, inner: nn.Module) -> None:
        super().__init__()
        self.inner = inner
        self.training = inner.training

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        """What the module's code returns."""
        return self.inner.forward(*args, **kwargs)


def _resized(dim: Any, size: int, sizes: Mapping[Axis, int]) -> int:
    for axis in leaves(dim):
        if axis in sizes:
            size = size // axis.size * sizes[axis]
    return size


def _calls(module: nn.Module, inputs: Inputs) -> Iterator[tuple[fx.Node, bool]]:
    """The operations of a module, recorded or else exported, and whether they take gradients."""
    try:
        with preserved(module), torch.enable_grad():
            found = trace(module, inputs)
    except Exception:  # whatever it raises on tensors without values: export tells
        with torch.enable_grad():
            exported = torch.export.export(module, *inputs, strict=False)
        return _nodes(exported.graph_module, True)
    return ((node, node.meta[GRADIENTS]) for node in _operations(found.graph))


def _nodes(module: fx.GraphModule, grad: bool) -> Iterator[tuple[fx.Node, bool]]:
    """The operations of a capture, those of its regions too, and whether they take gradients."""
    take_apart(module.graph)
    for node in _operations(module.graph):
        if getattr(node.target, "__name__", "") in _WRAPPERS:
            at = next(a for a in node.args if isinstance(a, fx.Node) and a.op == "get_attr")
            switched = "grad" in str(node.target)
            inner = getattr(module, str(at.target))
            yield from _nodes(inner, bool(node.args[0]) if switched else grad)
            continue
        yield node, grad


def _operations(graph: fx.Graph) -> Iterator[fx.Node]:
    """The operations of a graph, and regions."""
    for node in graph.nodes:
        if node.op != "call_function" or getattr(node.target, "__name__", "") == "getitem":
            continue
        schema = getattr(node.target, "_schema", None)
        if schema is None or schema.returns:  # else what export asserts of a conversion
            yield node


def _given(node: fx.Node) -> Iterator[tuple[str, Any]]:
    """The arguments that are no tensors."""
    for name, tensors, given in bound_arguments(node):
        if isinstance(given, fx.Node) or (tensors and given is None):
            continue
        if isinstance(given, list | tuple) and any(isinstance(g, fx.Node) for g in given):
            continue
        yield name, list(given) if isinstance(given, list | tuple) else given

"""What runs a model where its latency counts: PyTorch eager or compiled, or ONNX Runtime.

A backend runs single operations, of which tables are made, and whole models, which have the last
word. What it fuses into its neighbours (normalisations, activations) is measured eagerly and then
scaled so that the operations together take what the whole model takes.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from functools import partial
from typing import Any, Protocol
from weakref import WeakKeyDictionary

import torch
from torch import nn
from torch.utils import _pytree as pytree

from graphprune.core.errors import GraphPruneError, first_line
from graphprune.core.graph import Op
from graphprune.core.program import Inputs
from graphprune.costs.latency.timing import Call, in_turns
from graphprune.engine.state import preserved, quiet
from graphprune.frontends.torch.execute import rewritten

Operands = Sequence["torch.Tensor | None"]


class Backend(Protocol):
    """Runs operations and models.

    Attributes:
        name: One of `graphprune.choice.request.BACKENDS`.
        fuses: Whether operations without multiply-accumulates join their neighbours.
    """

    name: str
    fuses: bool

    def operation(
        self, op: Op, changed: Mapping[str, Any], operands: Operands
    ) -> tuple[str, Callable[[], Call]]:
        """An operation on narrowed operands: a key that names it, and what makes it ready."""

    @contextmanager
    def running(self, model: Any, inputs: Inputs) -> Iterator[Call]:
        """A whole model, ready to run on its inputs for a while; it stays as it is."""


class Eager:
    """PyTorch, operation by operation."""

    name = "eager"
    fuses: bool = False

    def operation(
        self, op: Op, changed: Mapping[str, Any], operands: Operands
    ) -> tuple[str, Callable[[], Call]]:
        """The kernel that eager mode calls."""
        target, args, kwargs = rewritten(op, changed, operands)
        return key_of(target, args, kwargs), lambda: partial(target, *args, **kwargs)

    @contextmanager
    def running(self, model: Any, inputs: Inputs) -> Iterator[Call]:
        """The module in eval mode."""
        with preserved(model, fused=True), quiet():
            model.eval()
            yield partial(model, *inputs[0], **inputs[1])


class Compiled(Eager):
    """`torch.compile`: the same kernels for products, the rest fused."""

    name = "compiled"
    fuses: bool = True

    def __init__(self) -> None:
        self._made: WeakKeyDictionary[nn.Module, Any] = WeakKeyDictionary()

    @contextmanager
    def running(self, model: Any, inputs: Inputs) -> Iterator[Call]:
        """The module compiled in eval mode, as a copy."""
        with quiet():
            if model not in self._made:
                torch.compiler.reset()  # what earlier models left would count against a limit
                self._made[model] = torch.compile(copy.deepcopy(model).eval(), dynamic=False)
            call = partial(self._made[model], *inputs[0], **inputs[1])
            try:
                with torch.no_grad():
                    call()
            except Exception as error:
                raise GraphPruneError(
                    f"backend='compiled': torch.compile fails ({first_line(error)}); a C++ "
                    "compiler is needed: use backend='eager'"
                ) from error
            yield call


def key_of(target: Any, args: Any, kwargs: Any) -> str:
    """Text that names a call by its target and the shapes of its operands."""

    def show(x: Any) -> str:
        if isinstance(x, torch.Tensor):
            return f"{str(x.dtype)[6:]}{list(x.shape)}@{x.device.type}"
        if isinstance(x, list | tuple):
            return "[" + ",".join(map(show, x)) + "]"
        return repr(x)

    return f"{target}({show(list(args))},{show(sorted(kwargs.items()))})"


def device_of(tree: Any) -> torch.device:
    """Where the first tensor of a tree lies."""
    leaves = pytree.tree_leaves(tree)
    return next((x.device for x in leaves if isinstance(x, torch.Tensor)), torch.device("cpu"))


def backend(name: str, is_file: bool = False) -> Backend:
    """The backend of this name.

    Args:
        name: One of `graphprune.choice.request.BACKENDS`; `"auto"` is eager for modules and
            ONNX Runtime for ONNX models.
        is_file: Whether the model is an ONNX model.

    Raises:
        GraphPruneError: ONNX Runtime is not installed, or cannot be chosen for this model.
    """
    from graphprune.frontends.runtime import FileRuntime, ModuleRuntime

    if is_file:
        if name not in ("auto", "onnxruntime"):
            raise GraphPruneError(
                f"backend={name!r} runs modules: an ONNX model runs in ONNX Runtime"
            )
        return FileRuntime()
    kinds: dict[str, type[Backend]] = {"onnxruntime": ModuleRuntime, "compiled": Compiled}
    return kinds.get(name, Eager)()


def forward_seconds(
    models: Sequence[nn.Module], inputs: Inputs, runs_in: Backend | None = None, least: int = 15
) -> list[float]:
    """Median wall time of a forward pass of each model, taken in turns on the same inputs.

    Args:
        models: Modules; they run in eval mode and stay as they are.
        inputs: Positional and keyword arguments for each.
        runs_in: What runs them; eager mode where not given.
        least: How often each one runs at least; short passes run more often.
    """
    runs_in = runs_in or Eager()
    with ExitStack() as stack:
        calls = [stack.enter_context(runs_in.running(model, inputs)) for model in models]
        return in_turns(calls, device_of(inputs), least)

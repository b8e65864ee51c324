"""What runs a model where its latency counts: PyTorch eager or compiled, or ONNX Runtime.

A backend runs single operations, of which tables are made, and whole models, which have the last
word. What it fuses into its neighbours (normalisations, activations) is measured eagerly and then
scaled so that the operations together take what the whole model takes.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from functools import partial
from typing import Any
from weakref import WeakKeyDictionary

import torch
from torch import nn

from graphprune.core.errors import GraphPruneError, first_line
from graphprune.core.graph import Op
from graphprune.core.program import Inputs
from graphprune.costs.latency.backend import Backend, Operands
from graphprune.costs.latency.timing import Call
from graphprune.engine.copying import copied
from graphprune.engine.state import preserved, quiet
from graphprune.frontends.torch.execute import rewritten


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
                self._made[model] = torch.compile(copied(model).eval(), dynamic=False)
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

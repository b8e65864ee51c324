"""Models that come in a wrapper, which is taken off first and put back on at the end.

1. An exported program, or the `.pt2` file of one, is opened as a module of its operations and
   exported again, with the same dimensions dynamic.
2. `nn.DataParallel` calls the module that it holds.
3. A model whose tensors were made in inference mode is copied, for ordinary ones.
"""

from __future__ import annotations

import copy
import inspect
import os
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import fx, nn
from torch.export import Dim, ExportedProgram
from torch.utils import _pytree as pytree

from graphprune.core.errors import GraphPruneError, LiftError, first_line
from graphprune.core.files import as_path
from graphprune.core.program import Inputs
from graphprune.engine.state import quiet
from graphprune.frontends.torch.inference import ordinary
from graphprune.frontends.torch.lift import DISTRIBUTED


@dataclass(frozen=True)
class Wrapped:
    """What was in a wrapper.

    Attributes:
        model: The model inside, or the given one where there is no wrapper.
        inputs: Example inputs that came with it, or None.
        back: Puts a model into a wrapper of the same kind, given example inputs for it.
    """

    model: Any
    inputs: Inputs | None = None
    back: Callable[[Any, Inputs], Any] = lambda model, _: model


def unwrapped(model: Any) -> Wrapped:
    """Take off a model's wrapper, if it has one.

    Raises:
        GraphPruneError: The file is not an exported program.
        LiftError: The wrapper cannot be put back on, or the program is not a plain one.
    """
    model = loaded(model)
    if isinstance(model, ExportedProgram):
        if model.example_inputs is None:
            raise LiftError("the exported program holds no example inputs: export it again")
        args, kwargs = model.example_inputs
        return Wrapped(_opened(model), (args, kwargs), partial(_exported, model))
    if isinstance(model, nn.DataParallel):
        return Wrapped(ordinary(model.module), None, partial(_parallel, model))
    if isinstance(model, nn.Module) and type(model).__module__.startswith(DISTRIBUTED):
        raise LiftError(
            f"a {type(model).__name__} module is bound to its processes: shrink the module that it "
            "holds (model.module), then wrap the result"
        )
    return Wrapped(ordinary(model) if isinstance(model, nn.Module) else model)


def loaded(model: Any) -> Any:
    """The exported program of a `.pt2` file; another model as it is.

    Raises:
        GraphPruneError: The file is not an exported program.
    """
    if not isinstance(model, str | os.PathLike) or Path(model).suffix != ".pt2":
        return model
    path = as_path(model)
    try:
        with quiet():
            return torch.export.load(path)
    except Exception as error:
        raise GraphPruneError(f"cannot read {path}: {first_line(error)}") from error


def _opened(program: ExportedProgram) -> nn.Module:
    """The operations of a program as a module that can be traced again."""
    with quiet():
        module = program.module()
    assert isinstance(module, fx.GraphModule)
    graph = module.graph
    for node in list(graph.nodes):
        if node.op == "call_module" and node.target == "_guards_fn":
            graph.erase_node(node)
    return fx.GraphModule(module, graph, "ExportedProgram")


def _exported(program: ExportedProgram, model: nn.Module, _: Inputs) -> ExportedProgram:
    """Export a smaller module; what was fixed or dynamic in the program is so again."""
    assert program.example_inputs is not None
    args, kwargs = program.example_inputs
    names = [
        spec.arg.name
        for spec in program.graph_signature.input_specs
        if spec.kind is torch.export.graph_signature.InputKind.USER_INPUT
    ]
    fakes = {n.name: n.meta.get("val") for n in program.graph.nodes if n.op == "placeholder"}
    dims = [_dynamic(fakes.get(name)) for name in names]
    shapes = pytree.tree_unflatten(dims, pytree.tree_structure((args, kwargs)))
    with quiet():
        if any(dims):
            try:
                return torch.export.export(
                    model, args, kwargs, dynamic_shapes=_named(model, shapes), strict=False
                )
            except Exception:  # generated code that takes the example's sizes only
                pass
        return torch.export.export(model, args, kwargs, strict=False)


def _dynamic(fake: Any) -> dict[int, Any] | None:
    """The dynamic dimensions of an input, or None."""
    sizes = fake.shape if isinstance(fake, torch.Tensor) else ()
    return {i: Dim.AUTO for i, size in enumerate(sizes) if not isinstance(size, int)} or None


def _named(model: nn.Module, shapes: Any) -> Any:
    """Dynamic shapes as torch.export takes them: positional ones, or all of them by name."""
    args, kwargs = shapes
    if not kwargs:
        return args
    parameters = inspect.signature(model.forward).parameters
    return {**dict(zip(parameters, args, strict=False)), **kwargs}


def _parallel(wrapper: nn.DataParallel[nn.Module], model: nn.Module, _: Inputs) -> nn.Module:
    made = copy.copy(wrapper)
    made.__dict__["_modules"] = {"module": model}
    return made

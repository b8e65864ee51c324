"""Opening a module: taken out of its wrapper, captured on the caller's inputs or on found ones."""

from __future__ import annotations

import os
import time
from collections.abc import Collection
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn
from torch.export import ExportedProgram
from torch.utils import _pytree as pytree

from graphprune.core.batch import Batch
from graphprune.core.errors import GraphPruneError, LiftError, OptionError, first_line
from graphprune.core.ledger import timed
from graphprune.core.program import Inputs
from graphprune.engine.state import preserved
from graphprune.engine.tensors import shapes_of
from graphprune.frontends.torch.captured import CapturedModule
from graphprune.frontends.torch.inference import ordinary_inputs
from graphprune.frontends.torch.inputs import candidates, find_inputs, trained
from graphprune.frontends.torch.lift import RejectedError, completed, lift, lift_guessed
from graphprune.frontends.torch.program import ModuleProgram
from graphprune.frontends.torch.refuse import check
from graphprune.frontends.torch.training import unreached
from graphprune.frontends.torch.wrapped import unwrapped
from graphprune.statistics.batches import inputs_of, read_batches


def is_module(model: Any) -> bool:
    """Whether a model is a module, an exported program, or the file of one."""
    if isinstance(model, str | os.PathLike):
        return Path(model).suffix == ".pt2"
    return isinstance(model, nn.Module | ExportedProgram)


def open_module(
    model: Any, inputs: Inputs | None, data: Any, samples: int
) -> tuple[ModuleProgram, list[Batch], dict[str, float]]:
    """Capture a module.

    Args:
        model: The module, in its wrapper or out of it.
        inputs: Example inputs, or None to find some: in the data, in the wrapper, by trying.
        data: Calibration data, or None.
        samples: How many samples of them are wanted.

    Returns:
        The captured module, the data as batches, and the time of each stage.

    Raises:
        LiftError: The module cannot be captured.
    """
    wrapped = unwrapped(model)
    module = wrapped.model
    if not isinstance(module, nn.Module):
        raise GraphPruneError(f"a torch.nn.Module is needed, not a {type(module).__name__}")
    check(module)
    inputs = None if inputs is None else _as_tensors(module, inputs)
    batches = [] if data is None else read_batches(data, module, samples)
    own = inputs is not None
    if inputs is None and batches:
        inputs = inputs_of(module, batches)
    _try_integers(module, inputs)
    seconds: dict[str, float] = {}
    try:
        captured = _captured(module, inputs or wrapped.inputs, seconds)
    except RejectedError as error:
        if own or not batches:
            raise
        raise LiftError(f"data: the model rejects inputs of shapes {error.what}") from error
    program = ModuleProgram(captured, wrapped.back)
    if inputs is None and wrapped.inputs is None:
        program.assumed = shapes_of(program.flat_inputs())
    return program, batches, seconds


def _as_tensors(model: nn.Module, inputs: Inputs) -> Inputs:
    """Inputs whose arrays are tensors; floats take the model's type, as NumPy's own is float64."""
    floats = next((p for p in model.parameters() if p.is_floating_point()), None)

    def tensor(x: Any) -> Any:
        if not isinstance(x, np.ndarray):
            return x
        try:
            made = torch.as_tensor(x)
        except TypeError as error:
            raise LiftError(f"example_inputs: an array of {x.dtype} is no tensor") from error
        return made if floats is None or not made.is_floating_point() else made.to(floats)

    made: Inputs = pytree.tree_map(tensor, inputs)
    return made


def _try_integers(model: nn.Module, inputs: Inputs | None) -> None:
    """Refuse integers that the model does not take: tracing on blank tensors lets them pass."""
    tensors = [x for x in pytree.tree_leaves(inputs) if isinstance(x, torch.Tensor)]
    kinds = {x.dtype for x in tensors if not (x.is_floating_point() or x.is_complex())}
    if any(isinstance(part, nn.Embedding | nn.EmbeddingBag) for part in model.modules()):
        kinds &= {torch.uint8}  # others are tokens
    kinds.discard(torch.bool)
    if not kinds or inputs is None:
        return
    args, kwargs = inputs
    try:
        with preserved(model), torch.no_grad():
            model.eval()
            model(*args, **kwargs)
    except Exception as error:
        named = ", ".join(sorted(map(str, kinds)))
        raise LiftError(
            f"{type(model).__name__} does not take inputs of type {named} "
            f"({first_line(error)}): convert them as the training code does, such as "
            "x.float() / 255"
        ) from error


def _captured(model: nn.Module, inputs: Inputs | None, seconds: dict[str, float]) -> CapturedModule:
    """Capture a model on the caller's inputs, or on those that are found.

    The first guess is mostly right: to capture with it costs less than to try it before.
    """
    if inputs is not None:
        return timed(seconds, "capture", lift, model, ordinary_inputs(inputs))
    others = candidates(model)
    guess = next(others, None)
    start = time.perf_counter()
    program = lift_guessed(model, guess) if guess is not None else None
    took = time.perf_counter() - start
    if program is None or guess is None:
        inputs = timed(seconds, "inputs", find_inputs, model)
    elif unreached(model, program.graph):
        inputs = timed(seconds, "inputs", trained, model, guess, others)
    else:
        inputs = guess
    if program is not None and inputs is guess:
        seconds["capture"] = took
        return timed(seconds, "capture", completed, program)
    seconds["inputs"] += took
    return timed(seconds, "capture", lift, model, inputs)


def module_patterns(model: nn.Module, given: Any, option: str = "keep") -> list[str]:
    """Name patterns: types of modules, modules themselves and weights, replaced by names.

    Args:
        model: The module whose parts are meant.
        given: A name pattern, a type of module, a module or a weight of the model, or several of
            these.
        option: The option that names them, for errors.

    Raises:
        GraphPruneError: The model has no such module, or one without parameters.
    """
    alone = isinstance(given, str | type | nn.Module | nn.Parameter)
    if not alone and given is not None and not isinstance(given, Collection):
        raise OptionError(
            f"{option}: a name pattern, a module or a type of module, or a list of them, is "
            f"needed, not {_short(given)}"
        )
    items: Collection[Any] = [given] if alone else given or ()
    out: list[str] = []
    for item in items:
        if isinstance(item, str):
            out.append(item)
        elif isinstance(item, type):
            out += _of_type(model, item, option)
        elif isinstance(item, nn.Module):
            out.append(_name_of(model, item, option))
        elif isinstance(item, nn.Parameter):
            out.append(_name_of_weight(model, item, option))
        else:
            raise OptionError(
                f"{option}: a name pattern, a module or a type of module is needed, not "
                f"{_short(item)}"
            )
    return out


def _short(given: Any) -> str:
    """What was given, in few words: not all numbers of a tensor."""
    return f"a {type(given).__name__}" if isinstance(given, torch.Tensor) else repr(given)


def _of_type(model: nn.Module, kind: type[Any], option: str) -> list[str]:
    found = [
        name
        for name, module in model.named_modules()
        if isinstance(module, kind) and any(True for _ in nn.Module.parameters(module))
    ]
    if not found:
        raise GraphPruneError(f"{option}: the model has no {kind.__name__} with parameters")
    return found


def _name_of(model: nn.Module, wanted: nn.Module, option: str) -> str:
    for name, module in model.named_modules(remove_duplicate=False):
        if module is wanted:
            if not any(True for _ in wanted.parameters()):
                raise GraphPruneError(
                    f"{option}: {name or 'the model'} is a {type(wanted).__name__} without "
                    "parameters: name the layers around it"
                )
            return name or "*"
    raise GraphPruneError(
        f"{option}: this {type(wanted).__name__} is no part of the model: pass a module of the "
        "model itself (not of a copy), or its name"
    )


def _name_of_weight(model: nn.Module, wanted: nn.Parameter, option: str) -> str:
    for name, weight in model.named_parameters(remove_duplicate=False):
        if weight is wanted:
            return name
    raise GraphPruneError(
        f"{option}: this Parameter is no part of the model: pass one of the model itself (not of "
        "a copy), or its name"
    )

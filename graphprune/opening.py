"""Opening a model of any kind: captured, analysed, ready for a choice."""

from __future__ import annotations

import time
from collections.abc import Collection
from dataclasses import replace
from typing import Any, TypeAlias

from torch import nn

from graphprune.compensation.calibration import Calibration, Options
from graphprune.core.batch import Batch
from graphprune.core.errors import GraphPruneError
from graphprune.core.ledger import timed
from graphprune.core.program import Inputs
from graphprune.frontends.onnx import is_onnx
from graphprune.frontends.torch.inference import ordinary_inputs
from graphprune.frontends.torch.inputs import candidates, find_inputs, trained
from graphprune.frontends.torch.lift import TorchProgram, completed, lift, lift_guessed
from graphprune.frontends.torch.refuse import check
from graphprune.frontends.torch.training import unreached
from graphprune.frontends.torch.wrapped import Wrapped, unwrapped
from graphprune.passes.couple import couple
from graphprune.session import Session
from graphprune.statistics.batches import read_batches

Keep: TypeAlias = Collection["str | type[nn.Module]"]


def opened(
    model: Any, inputs: Inputs | None, keep: Keep, options: Options | None = None
) -> Session:
    """Capture and analyse a model.

    Args:
        model: A module, an exported program, an ONNX model, or a path of one of the latter two;
            in its wrapper or out of it.
        inputs: Example inputs, or None to find some.
        keep: What to leave as it is.
        options: How the result is to be compensated, if it will be made.

    Raises:
        LiftError: The model cannot be captured.
        GraphPruneError: It is of no kind that can be read.
    """
    wrapped = model if isinstance(model, Wrapped) else unwrapped(model)
    session = _opened(wrapped.model, inputs or wrapped.inputs, keep, options)
    session.back = wrapped.back
    return session


def _opened(model: Any, inputs: Inputs | None, keep: Keep, options: Options | None) -> Session:
    if is_onnx(model):
        from graphprune.frontends.onnx.session import opened as opened_onnx

        return opened_onnx(model, inputs, keep, options)
    if not isinstance(model, nn.Module):
        raise GraphPruneError(
            "a torch.nn.Module, an exported program (.pt2) or an ONNX model is needed, not a "
            f"{type(model).__name__}"
        )
    check(model)
    seconds: dict[str, float] = {}
    program = _captured(model, inputs, seconds)
    deps = timed(seconds, "couple", couple, program.graph, patterns(model, keep))
    session = Session(program, deps, seconds)
    if options is not None:
        session.calibration = Calibration(program, deps, options)
    return session


def _captured(model: nn.Module, inputs: Inputs | None, seconds: dict[str, float]) -> TorchProgram:
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


def with_data(options: Options, data: Any, model: Any) -> tuple[Options, list[Batch]]:
    """Options with calibration data; for ONNX models, whose inputs have names, not read yet."""
    if is_onnx(model):
        return replace(options, data=data), []
    batches = read_batches(data, as_module(model, "data"), options.samples())
    return options.reading(batches), batches


def as_module(model: Any, what: str = "this") -> nn.Module:
    """The model, where something is asked for that ONNX models do not have yet."""
    model = unwrapped(model).model
    if not isinstance(model, nn.Module):
        raise GraphPruneError(f"{what} needs a torch.nn.Module, not a {type(model).__name__}")
    return model


def patterns(model: Any, keep: Keep) -> list[str]:
    """Name patterns, module types replaced by the names of such modules."""
    out: list[str] = []
    for item in [keep] if isinstance(keep, str | type) else keep:
        if isinstance(item, str):
            out.append(item)
            continue
        found = [
            name
            for name, module in model.named_modules()
            if isinstance(module, item) and any(True for _ in module.parameters())
        ]
        if not found:
            raise GraphPruneError(f"keep: the model has no {item.__name__} with parameters")
        out += found
    return out

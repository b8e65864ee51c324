"""lift: `torch.nn.Module` → torch.export (non-strict, eval mode) → the neutral graph.

The exported program is not decomposed: export keeps linear, conv, batch_norm, layer_norm,
attention and lstm whole, which is the level at which rules are stated.
"""

from __future__ import annotations

import inspect
import time
from collections.abc import Callable
from contextlib import redirect_stderr, redirect_stdout
from dataclasses import is_dataclass
from functools import partial
from io import StringIO
from typing import Any

import torch
from torch import nn
from torch.utils import _pytree as pytree

from graphprune.core.errors import LiftError, first_line, named_line
from graphprune.core.graph import Graph
from graphprune.core.program import Inputs
from graphprune.engine.state import kept_tensors, modes_preserved, preserved, quiet, same_draws
from graphprune.frontends.torch.adapters import WHY, ranks
from graphprune.frontends.torch.calls import (
    NotTracedError,
    calls_of,
    calls_on_trial,
    is_tensor,
    known_calls,
)
from graphprune.frontends.torch.captured import CapturedModule
from graphprune.frontends.torch.execute import TORCH
from graphprune.frontends.torch.inputs import distinct
from graphprune.frontends.torch.modes import differs
from graphprune.frontends.torch.parts import (
    Seen,
    described,
    find_parts,
    fixed,
    in_parts,
    nothing_found,
)
from graphprune.frontends.torch.reader import Reader
from graphprune.frontends.torch.traced import Trace
from graphprune.frontends.torch.training import add_training, unreached, untouched

# Arguments that hold a cache already.
_CACHES = frozenset(("past_key_values", "cache_params", "past_key_value"))
DISTRIBUTED = ("torch.distributed", "torch.nn.parallel.distributed")
_VMAP, _DUALS = ("_add_batch_dim", "_remove_batch_dim"), ("_make_dual",)
_TRANSFORMS = {
    _VMAP: "calls torch.vmap, inside which operations cannot be followed: write it over the whole "
    "batch, or shrink the modules around it",
    _DUALS: "takes forward-mode derivatives (torch.func.jvp), inside which operations cannot be "
    "followed: shrink the modules around it",
}
"""What cannot be followed, by how the types of its operations end: none of them runs by itself."""


def lift(model: nn.Module, inputs: Inputs) -> CapturedModule:
    """Capture a module.

    Args:
        model: Any module that torch.export can trace.
        inputs: Positional and keyword arguments for its `forward`.

    Raises:
        LiftError: The module cannot be captured; the message names the cause and the way out.
    """
    with modes_preserved(model):
        model.eval()
        return _with_training(_lifted(model, distinct(without_cache(model, inputs))))


def lift_guessed(model: nn.Module, inputs: Inputs) -> CapturedModule | None:
    """Capture a module with inputs that may be wrong, which the capture itself tells.

    Args:
        model: Any module.
        inputs: Positional and keyword arguments that its `forward` may accept, a batch of two.

    Returns:
        The module captured in eval mode, to be completed; None where it cannot be captured whole,
        or with these inputs.
    """
    with modes_preserved(model):
        model.eval()
        try:
            captured = _program(model, distinct(inputs), calls_on_trial)
        except Exception:
            return None
    return None if captured.builds else captured


def completed(captured: CapturedModule) -> CapturedModule:
    """Add what only training mode reaches to a guessed capture, whose inputs it accepts."""
    with modes_preserved(captured.model):
        return _with_training(captured)


def captured_again(captured: CapturedModule, inputs: Inputs, training: bool) -> CapturedModule:
    """Capture a module once more, with other inputs or in the other mode.

    Raises:
        LiftError: It cannot be captured so.
    """
    model = captured.model
    with modes_preserved(model):
        try:
            model.train(training)
        except NotImplementedError as error:  # an exported program has one mode
            raise LiftError(first_line(error)) from error
        return _program(model, inputs, calls_of)


def _with_training(captured: CapturedModule) -> CapturedModule:
    """Add what only training mode reaches to a capture in eval mode."""
    model, graph = captured.model, captured.graph
    _refuse(graph, captured.name, _VMAP)
    if captured.original is None and _trains_otherwise(captured):
        model.train()
        capture = partial(_program, model, captured.inputs, calls_of)
        add_training(model, graph, captured.warnings, capture)
    graph.fixed_dims = dict.fromkeys(ranks(graph), WHY)
    graph.outside = sum(model.get_parameter(name).numel() for name in unreached(model, graph))
    return captured


def _trains_otherwise(captured: CapturedModule) -> bool:
    """Whether training mode reaches what a capture in eval mode does not, or computes more."""
    model, graph = captured.model, captured.graph
    reaches = unreached(model, graph) or untouched(model, graph)
    return bool(reaches) or differs(model, captured.inputs)


def _refuse(graph: Graph, name: str, endings: tuple[str, ...]) -> None:
    """Refuse the code inside a transform of functions.

    Raises:
        LiftError: There is some; the message names the module.
    """
    for op in graph.ops:
        if op.type.endswith(endings):
            raise LiftError(f"{op.module or name} {_TRANSFORMS[endings]}")


def _lifted(model: nn.Module, inputs: Inputs) -> CapturedModule:
    """Capture a module whole, else in parts.

    Whether it is the module or the inputs that are to blame, a pass tells that the parts need too.
    """
    try:
        return _batched(model, inputs)
    except LiftError as error:
        failed = error
    try:
        with preserved(model), quiet(), redirect_stdout(StringIO()), redirect_stderr(StringIO()):
            seen = Seen(model, inputs)
    except Exception as eager:
        told = RejectedError(inputs, eager) if type(failed) is NotTracedError else failed
        raise told from eager
    if type(failed) is NotTracedError and _register(seen.results):
        return _batched(model, inputs)
    return _in_parts(model, inputs, failed, seen)


def _register(results: Any) -> bool:
    """Tell PyTorch of the dataclasses that a model returned; whether there were any."""
    kinds = {type(leaf) for leaf in pytree.tree_leaves(results) if is_dataclass(leaf)}
    for kind in kinds:
        torch.export.register_dataclass(kind)
    return bool(kinds)


def _in_parts(model: nn.Module, inputs: Inputs, error: LiftError, seen: Seen) -> CapturedModule:
    """Capture what can be captured of a model that cannot be captured whole."""
    with preserved(model), quiet(), redirect_stdout(StringIO()), redirect_stderr(StringIO()):
        parts = find_parts(model, inputs, seen)
    if not parts.calls:
        raise nothing_found(error, parts) from error
    view, arguments = in_parts(model, parts)
    captured = _program(view, arguments, calls_of)
    captured.original, captured.given, captured.parts = model, inputs, parts
    captured.warnings.append(f"{described(parts)}\nreason: {error}")
    captured.graph.fixed = fixed(captured.graph, parts)
    return captured


def _batched(model: nn.Module, inputs: Inputs) -> CapturedModule:
    """Capture with a batch of two where one is given: a length of one could be anything."""
    tensors = [x for x in pytree.tree_leaves(inputs) if isinstance(x, torch.Tensor)]
    if tensors and all(x.dim() > 0 and x.shape[0] == 1 for x in tensors):
        doubled: Inputs = pytree.tree_map_only(torch.Tensor, lambda x: torch.cat([x, x]), inputs)
        try:
            return _captured(model, doubled)
        except LiftError:  # the first dimension is not a batch
            pass
    return _captured(model, inputs)


def _captured(model: nn.Module, inputs: Inputs) -> CapturedModule:
    """Capture a module as it is after a first call: used or not, it is captured alike.

    Code that makes tables at its first call, or asks for numbers that tensors hold, is run once and
    traced again with the values of what it stores at hand.
    """
    failed: LiftError | None = None
    captured: CapturedModule | None = None
    try:
        captured = _program(model, inputs, calls_of)
    except LiftError as error:
        failed = error
    if captured is not None and not captured.builds:
        return captured
    stored = {name for name, _ in model.named_buffers(remove_duplicate=False)}
    try:
        with preserved(model):
            with kept_tensors(model) as kept:
                _call_once(model, inputs)
            if captured is not None and _filled_anew(model, inputs):
                return captured
            captured = _program(model, inputs, known_calls)
            captured.valued, captured.builds = failed is not None, failed is None or bool(kept)
            for name, value in captured.graph.weights.items():
                if value.kind == "buffer" and name not in stored:
                    value.kind = "constant"  # which the code made, and makes again
            return captured
    except Exception as error:
        if captured is None:
            raise failed or error from None
        return captured


def _call_once(model: nn.Module, inputs: Inputs) -> None:
    """Run a module, which may keep what it makes; its own buffers are not written to."""
    args, kwargs = pytree.tree_map_only(torch.Tensor, torch.clone, inputs)
    buffers = {name: held.clone() for name, held in model.named_buffers()}
    silent = redirect_stdout(StringIO()), redirect_stderr(StringIO())
    with quiet(), silent[0], silent[1], torch.no_grad(), same_draws():
        torch.func.functional_call(model, buffers, args, kwargs)


def _filled_anew(model: nn.Module, inputs: Inputs) -> bool:
    """Whether each pass puts other tensors into a container: a state, and no table."""
    with kept_tensors(model) as kept:
        _call_once(model, inputs)
    return any(not is_tensor(model, *place) for place in kept)


def _program(
    model: nn.Module, inputs: Inputs, capture: Callable[[nn.Module, Inputs], Trace]
) -> CapturedModule:
    start = time.perf_counter()
    found = capture(model, inputs)
    seconds = time.perf_counter() - start
    reader = Reader(model, found, TORCH)
    for node in found.graph.nodes:
        reader.read(node)
    _refuse(reader.graph, type(model).__name__, _DUALS)
    return CapturedModule(
        model=model,
        inputs=inputs,
        graph=reader.graph,
        seconds=seconds,
        on_meta=all(x.is_cpu for x in model.parameters()),
        builds=found.keeps,
    )


def without_cache(model: nn.Module, inputs: Inputs) -> Inputs:
    """Inputs that ask for no cache, where a model's config tells of one and they ask for none.

    A cache among the results would keep the widths of all that it holds; generation goes on with
    it as before.
    """
    args, kwargs = inputs
    config = getattr(model, "config", None)
    names = list(inspect.signature(model.forward).parameters)
    given = {*names[: len(args)], *kwargs}
    if config is None or "use_cache" not in names or "use_cache" in given:
        return inputs
    if not isinstance(getattr(config, "use_cache", False), bool) or given & _CACHES:
        return inputs
    return args, {**kwargs, "use_cache": False}


class RejectedError(LiftError):
    """A model does not run on its inputs.

    Attributes:
        what: Their shapes, and how it failed.
    """

    def __init__(self, inputs: Inputs, error: Exception) -> None:
        shapes = [tuple(x.shape) for x in pytree.tree_leaves(inputs) if isinstance(x, torch.Tensor)]
        self.what = f"{shapes}: {named_line(error)}"
        super().__init__(
            f"the model rejects example inputs of shapes {self.what}\n"
            "Pass inputs that it accepts: graphprune.shrink(model, ratio, example_inputs=(x,))"
        )

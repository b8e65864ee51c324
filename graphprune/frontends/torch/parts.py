"""Capturing a model in parts, where torch.export cannot trace it whole.

1. One real forward pass tells with which arguments every submodule is called, and every method of
   a submodule, and which weights are used by code outside them.
2. The outermost submodules that torch.export can trace are the parts; where it cannot, the methods
   that it can (two layers that are called one after the other are in no module of their own) come
   before the submodules inside. They are captured together, each with its recorded arguments as
   inputs: nothing is known of what happens between them, so the axes there are locked. The values
   of the arguments come from a second pass with the same random numbers; what it calls otherwise
   is left alone.
3. Weights of a part that other code uses too keep their shapes. So does what a part might share
   with other code otherwise: one that stores tensors on a module is no part, and what a pass
   stored is undone before a part is looked at.
"""

from __future__ import annotations

import copy
import warnings
from collections.abc import Collection, Iterable
from dataclasses import dataclass, field
from itertools import chain
from operator import attrgetter
from typing import Any

import torch
from torch import nn
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.utils import _pytree as pytree

from graphprune.core.errors import LiftError, first_line
from graphprune.core.graph import Graph, Value
from graphprune.engine.state import same_draws
from graphprune.frontends.torch.arguments import REWRITES
from graphprune.frontends.torch.older import mended
from graphprune.frontends.torch.reader import check_readable
from graphprune.frontends.torch.recorder import Call, Recorder, Stack, kind, methods

_PLAIN = (torch.Tensor, int, float, bool, str, torch.dtype, torch.device, type(None))


@dataclass
class Parts:
    """The parts of a model that can be captured.

    Attributes:
        calls: Path of a submodule or method, and arguments, of each call to capture.
        left: Submodules with weights that are in no part, with the reason.
        shared: Names of weights that code outside the parts uses too.
    """

    calls: list[tuple[str, Call]] = field(default_factory=list)
    left: dict[str, str] = field(default_factory=dict)
    shared: list[str] = field(default_factory=list)


def in_parts(model: nn.Module, parts: Parts) -> tuple[nn.Module, Call]:
    """A view of a model whose forward calls the parts, and the arguments for it.

    The view shares everything with the model, down to the names of its weights.
    """
    view = copy.copy(model)
    paths = [path for path, _ in parts.calls]

    def forward(self: nn.Module, *calls: Call) -> list[Any]:
        return [
            attrgetter(path)(self)(*args, **kwargs)
            for path, (args, kwargs) in zip(paths, calls, strict=True)
        ]

    view.__class__ = type(type(model).__name__, (type(model),), {"forward": forward})
    return view, (tuple(call for _, call in parts.calls), {})


def whole(view: nn.Module, model: nn.Module) -> nn.Module:
    """Give a view, or a narrowed copy of one, the forward of the model again, and its own mode.

    The view was made while the model was in evaluation mode.
    """
    view.training = model.training
    if view.__class__.__bases__ == (type(model),):
        view.__class__ = type(model)
    return view


class Seen:
    """What one real forward pass shows.

    Args:
        model: The model, in eval mode.
        inputs: Arguments for it.

    Attributes:
        recorder: Calls of the submodules, without the values of their arguments.
        results: What the model returned.

    Raises:
        Exception: Whatever the model raises.
    """

    def __init__(self, model: nn.Module, inputs: Call) -> None:
        fake = FakeTensorMode(allow_non_fake_inputs=True)  # all arguments would fill memory
        self.recorder = Recorder(model, fake.from_tensor)
        with same_draws():
            self.results = _run(model, inputs, self.recorder)


def find_parts(model: nn.Module, inputs: Call, seen: Seen) -> Parts:
    """Find the outermost submodules that torch.export can trace.

    Args:
        model: The model, in eval mode.
        inputs: Arguments that it accepts.
        seen: What a pass over them showed.
    """
    parts = Parts()
    _take_apart("", model, seen.recorder, model, parts)
    again = _for_real(model, inputs, parts)
    paths = {path for path, _ in parts.calls}
    for name, weight in chain(model.named_parameters(), model.named_buffers()):
        users = [r.users.get(id(weight), set()) for r in (seen.recorder, again)]
        if _outside(paths, set().union(*users)):
            parts.shared.append(name)
    return parts


def _outside(paths: Collection[str], stacks: Iterable[Stack]) -> bool:
    """Whether any of some stacks is in none of the parts of these paths."""
    return not all(any(path in paths for path in stack) for stack in stacks)


def fixed(graph: Graph, parts: Parts) -> dict[Value, str]:
    """What must keep its shape because code outside the parts takes part in it, and why."""
    found: dict[Value, str] = {}
    for value in graph.weights.values():
        if not {value.name, *value.aliases}.isdisjoint(parts.shared):
            found[value] = "used outside the captured parts"
        elif value.kind == "constant":
            found[value] = "no weight, and may be another one when code outside the parts has run"
    for op in graph.ops:
        # No module can be replaced by generated code that would make up for it.
        if not op.module and not REWRITES.keys().isdisjoint(op.attrs):
            found |= dict.fromkeys(op.outputs, "its size is up to the code of a method")
    return found


def recorded(
    model: nn.Module, inputs: Call, paths: Collection[str], calls: int | None = None
) -> dict[str, list[list[Call]]]:
    """The arguments of all calls of some submodules, of those that torch.export might trace.

    Args:
        model: The model, in eval mode.
        inputs: Arguments for it.
        paths: Which submodules.
        calls: How many of those that one capture stands for; all where not given.

    Returns:
        For each path its calls, those together that one capture stands for.
    """
    recorder = Recorder(model, torch.clone, paths, calls)
    _run(model, inputs, recorder)
    return {
        path: [calls for calls in kinds.values() if _traceable(calls[0])]
        for path, kinds in recorder.kinds.items()
    }


def _run(model: nn.Module, inputs: Call, recorder: Recorder) -> Any:
    with torch.no_grad(), recorder.recording(), recorder:
        return model(*inputs[0], **inputs[1])


def _for_real(model: nn.Module, inputs: Call, parts: Parts) -> Recorder:
    """Give the calls of the parts tensors with values; leave alone what is not called again."""
    recorder = Recorder(model, torch.clone, {path for path, _ in parts.calls}, 1)
    with same_draws():
        _run(model, inputs, recorder)
    known, parts.calls = parts.calls, []
    for path, call in known:
        found = recorder.kinds[path].get(kind(call), [])
        if found and _traceable(found[0]):
            parts.calls.append((path, found[0]))
        else:
            parts.left[path] = "the same inputs lead to other calls of it when they are run again"
    lost = {path for path, _ in known} & parts.left.keys()
    parts.calls = [(path, call) for path, call in parts.calls if path not in lost]
    return recorder


def _visit(
    path: str, module: nn.Module, recorder: Recorder, model: nn.Module, parts: Parts
) -> None:
    """Look for parts in a submodule: itself, else what it is made of."""
    paths = {path for path, _ in parts.calls}
    uses = [stack for p in module.parameters() for stack in recorder.users.get(id(p), ())]
    if not any(True for _ in module.parameters()) or (uses and not _outside(paths, uses)):
        return
    why = _tried(path, recorder, model, parts)
    before = len(parts.calls)
    if why is None:
        return
    _take_apart(path, module, recorder, model, parts)
    if len(parts.calls) == before:
        parts.left = {p: w for p, w in parts.left.items() if not p.startswith(f"{path}.")}
        parts.left[path] = why


def _take_apart(
    path: str, module: nn.Module, recorder: Recorder, model: nn.Module, parts: Parts
) -> None:
    """Look for parts among the methods of a module, in the order of their calls, and its children.

    What the methods that are parts call is in no need of being one.
    """
    prefix = f"{path}." if path else ""
    own = {f"{prefix}{name}" for name in methods(module)}
    for name in [called for called in recorder.kinds if called in own]:
        paths = {path for path, _ in parts.calls}
        if _outside(paths, (stack for stack in recorder.stacks() if name in stack)):
            _tried(name, recorder, model, parts)
    for name, child in module.named_children():
        _visit(f"{prefix}{name}", child, recorder, model, parts)


def _tried(path: str, recorder: Recorder, model: nn.Module, parts: Parts) -> str | None:
    """Make a submodule or method a part if torch.export can trace it; else the reason."""
    known = [held[0] for held in recorder.kinds[path].values()]
    trial = Parts([(path, call) for call in known if _traceable(call)])
    if not trial.calls:
        return "it takes objects or empty tensors" if known else "it is never called as a module"
    view, (args, _) = in_parts(model, trial)
    try:
        with mended(), warnings.catch_warnings():
            # Other code may read what is stored, whose axes nothing would lock.
            warnings.filterwarnings("error", message=".*assigned during export")
            check_readable(torch.export.export(view, args, strict=False))
    except Exception as error:
        return first_line(error)
    parts.calls += trial.calls
    return None


def _traceable(call: Call) -> bool:
    """Whether arguments are tensors, numbers and containers of them, none of them empty."""
    leaves = pytree.tree_leaves(call)
    tensors = [leaf for leaf in leaves if isinstance(leaf, torch.Tensor)]
    plain = all(isinstance(leaf, _PLAIN) for leaf in leaves)
    return plain and bool(tensors) and all(tensor.numel() for tensor in tensors)


def described(parts: Parts) -> str:
    """What was captured and what was left alone, for the report."""
    paths = ", ".join(dict.fromkeys(path for path, _ in parts.calls))
    left = "; ".join(f"{path} ({why})" for path, why in parts.left.items())
    return f"the model was captured in parts: {paths}" + (f"; left alone: {left}" if left else "")


def nothing_found(error: LiftError, parts: Parts) -> LiftError:
    """The error for a model of which no part can be captured either."""
    left = "; ".join(f"{path} ({why})" for path, why in parts.left.items())
    return LiftError(f"{error}\nNo submodule of it can be captured by itself either: {left}")

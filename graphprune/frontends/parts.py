"""Capturing a model in parts, where torch.export cannot trace it whole.

1. One real forward pass tells with which arguments every submodule is called, and which weights
   are used by code outside the submodules.
2. The outermost submodules that torch.export can trace are the parts. They are captured
   together, each with its recorded arguments as inputs: nothing is known of what happens between
   them, so the axes there are locked. The values of the arguments come from a second pass with the
   same random numbers; what it calls otherwise is left alone.
3. Weights of a part that other code uses too keep their shapes.
"""

from __future__ import annotations

import copy
import random
from collections import defaultdict
from collections.abc import Callable, Collection, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any, TypeAlias

import numpy as np
import torch
from torch import nn
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.overrides import TorchFunctionMode
from torch.utils import _pytree as pytree

from graphprune.errors import LiftError, first_line
from graphprune.frontends.older import mended
from graphprune.frontends.reader import check_sizes

Call: TypeAlias = "tuple[tuple[Any, ...], dict[str, Any]]"

_MOST_CALLS = 4  # distinct calls of a part that are captured
_PLAIN = (torch.Tensor, int, float, bool, str, torch.dtype, torch.device, type(None))


@dataclass
class Parts:
    """The parts of a model that can be captured.

    Attributes:
        calls: Path and arguments of each call to capture.
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
            self.get_submodule(path)(*args, **kwargs)
            for path, (args, kwargs) in zip(paths, calls, strict=True)
        ]

    view.__class__ = type(type(model).__name__, (type(model),), {"forward": forward})
    return view, (tuple(call for _, call in parts.calls), {})


def whole(view: nn.Module, model: nn.Module) -> nn.Module:
    """Give a view, or a narrowed copy of one, the forward of the model again."""
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
        self.recorder = _Recorder(model, fake.from_tensor)
        with _same_draws():
            self.results = _run(model, inputs, self.recorder)


def find_parts(model: nn.Module, inputs: Call, seen: Seen) -> Parts:
    """Find the outermost submodules that torch.export can trace.

    Args:
        model: The model, in eval mode.
        inputs: Arguments that it accepts.
        seen: What a pass over them showed.
    """
    parts = Parts()
    for name, child in model.named_children():
        _visit(name, child, seen.recorder, model, parts)
    again = _for_real(model, inputs, parts)
    inside = tuple(f"{path}." for path, _ in parts.calls)
    names = {id(p): name for name, p in model.named_parameters()}
    for key, name in names.items():
        users = seen.recorder.users.get(key, set()) | again.users.get(key, set())
        if any(not f"{user}.".startswith(inside) for user in users):
            parts.shared.append(name)
    return parts


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
    recorder = _Recorder(model, torch.clone, paths, calls)
    _run(model, inputs, recorder)
    return {
        path: [calls for calls in kinds.values() if _traceable(calls[0])]
        for path, kinds in recorder.kinds.items()
    }


def _run(model: nn.Module, inputs: Call, recorder: _Recorder) -> Any:
    with torch.no_grad(), recorder.recording(), recorder:
        return model(*inputs[0], **inputs[1])


@contextmanager
def _same_draws() -> Iterator[None]:
    """Leave the random generators as they were, for code that draws what it calls."""
    states = random.getstate(), np.random.get_state()
    try:
        with torch.random.fork_rng():
            yield
    finally:
        random.setstate(states[0])
        np.random.set_state(states[1])


def _for_real(model: nn.Module, inputs: Call, parts: Parts) -> _Recorder:
    """Give the calls of the parts tensors with values; leave alone what is not called again."""
    recorder = _Recorder(model, torch.clone, {path for path, _ in parts.calls}, 1)
    with _same_draws():
        _run(model, inputs, recorder)
    known, parts.calls = parts.calls, []
    for path, call in known:
        found = recorder.kinds[path].get(_kind(call), [])
        if found and _traceable(found[0]):
            parts.calls.append((path, found[0]))
        else:
            parts.left[path] = "the same inputs lead to other calls of it when they are run again"
    lost = {path for path, _ in known} & parts.left.keys()
    parts.calls = [(path, call) for path, call in parts.calls if path not in lost]
    return recorder


def _kind(call: Call) -> str:
    """What the calls that one capture stands for have in common."""
    return str(pytree.tree_map_only(torch.Tensor, lambda x: x.dim(), call))


def _visit(
    path: str, module: nn.Module, recorder: _Recorder, model: nn.Module, parts: Parts
) -> None:
    if not any(True for _ in module.parameters()):
        return
    why = "it is never called as a module"
    known = [held[0] for held in recorder.kinds[path].values()]
    calls = [call for call in known if _traceable(call)]
    if calls:
        trial = Parts([(path, call) for call in calls])
        view, (args, _) = in_parts(model, trial)
        try:
            with mended():
                check_sizes(torch.export.export(view, args, strict=False))
            parts.calls += trial.calls
            return
        except Exception as error:
            why = first_line(error)
    elif known:
        why = "it takes objects or empty tensors"
    before = len(parts.calls)
    for name, child in module.named_children():
        _visit(f"{path}.{name}", child, recorder, model, parts)
    if len(parts.calls) == before:
        parts.left = {p: w for p, w in parts.left.items() if not p.startswith(f"{path}.")}
        parts.left[path] = why


def _traceable(call: Call) -> bool:
    """Whether arguments are tensors, numbers and containers of them, none of them empty."""
    leaves = pytree.tree_leaves(call)
    tensors = [leaf for leaf in leaves if isinstance(leaf, torch.Tensor)]
    plain = all(isinstance(leaf, _PLAIN) for leaf in leaves)
    return plain and bool(tensors) and all(tensor.numel() for tensor in tensors)


class _Recorder(TorchFunctionMode):
    """Records calls of modules, and which module's code uses which weight.

    Args:
        model: The model.
        hold: Makes what is kept of a tensor, which may be written to later.
        paths: Which modules; all where not given, and of each a few calls of different kinds.
        most: How many calls of a kind to keep of these.
    """

    def __init__(
        self,
        model: nn.Module,
        hold: Callable[[torch.Tensor], torch.Tensor],
        paths: Collection[str] | None = None,
        most: int | None = None,
    ) -> None:
        super().__init__()
        self.kinds: Mapping[str, dict[str, list[Call]]] = defaultdict(dict)
        self._hold = hold
        self._paths, self._most = paths, most
        self.users: Mapping[int, set[str]] = defaultdict(set)
        self._model = model
        self._stack: list[str] = []
        self._weights = {id(parameter) for parameter in model.parameters()}

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        # A look at a weight's type or device does not depend on its shape.
        if getattr(func, "__name__", "") != "__get__" or func == torch.Tensor.shape.__get__:  # type: ignore[attr-defined]
            for leaf in pytree.tree_leaves((args, kwargs)):
                if id(leaf) in self._weights:
                    self.users[id(leaf)].add(self._stack[-1] if self._stack else "")
        return func(*args, **kwargs)

    @contextmanager
    def recording(self) -> Iterator[None]:
        """Hook all submodules for a while."""
        handles = []
        for path, module in self._model.named_modules():
            before, after = self._hooks(path)
            handles.append(module.register_forward_pre_hook(before, with_kwargs=True, prepend=True))
            handles.append(module.register_forward_hook(after, always_call=True))
        try:
            yield
        finally:
            for handle in handles:
                handle.remove()

    def _keeps(self, path: str, key: str) -> bool:
        """Whether to keep a call."""
        kinds = self.kinds[path]
        if self._paths is None:
            return key not in kinds and len(kinds) < _MOST_CALLS
        wanted = self._most is None or len(kinds.get(key, ())) < self._most
        return path in self._paths and wanted

    def _hooks(self, path: str) -> tuple[Any, Any]:
        def before(module: nn.Module, args: Any, kwargs: Any) -> None:
            self._stack.append(path)
            kinds = self.kinds[path]
            key = _kind((args, kwargs))
            if self._keeps(path, key):
                held = pytree.tree_map_only(torch.Tensor, self._hold, (args, kwargs))
                kinds.setdefault(key, []).append(held)

        def after(*_: Any) -> None:
            self._stack.pop()

        return before, after


def described(parts: Parts) -> str:
    """What was captured and what was left alone, for the report."""
    paths = ", ".join(dict.fromkeys(path for path, _ in parts.calls))
    left = "; ".join(f"{path} ({why})" for path, why in parts.left.items())
    return f"the model was captured in parts: {paths}" + (f"; left alone: {left}" if left else "")


def nothing_found(error: LiftError, parts: Parts) -> LiftError:
    """The error for a model of which no part can be captured either."""
    left = "; ".join(f"{path} ({why})" for path, why in parts.left.items())
    return LiftError(f"{error}\nNo submodule of it can be captured by itself either: {left}")

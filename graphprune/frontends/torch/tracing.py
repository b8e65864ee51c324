"""tracing: the ATen calls of a module, noted one by one as its code runs on tensors without values.

It gives what torch.export gives, in a fraction of the time: operations before any decomposition,
with their operands, the module that called them, and the function that they came from. Whatever it
cannot follow, it refuses, and the module is exported instead:

1. Weights or inputs that are no plain strided tensors, or lie on several devices.
2. A module that is in the model under two names, a graph module, a scripted or compiled one.
3. Questions for values, and sizes that depend on them.
4. Regions in another precision; transforms of functions.
5. Tensors that come from elsewhere than the inputs, the weights, and what the code makes or finds.
6. Questions that a tensor without values cannot answer: its storage, its type as a string.
7. Code that keeps on a module what it makes.
8. Releases of PyTorch that it was not held against torch.export with.

An error inside the code that is run, caught there or not, is a refusal too: with values there may
have been none.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, fx, nn
from torch._dispatch.python import enable_python_dispatcher
from torch.amp import autocast_mode
from torch.fx.experimental.proxy_tensor import PreDispatchTorchFunctionMode, ProxyTorchDispatchMode
from torch.overrides import TorchFunctionMode
from torch.torch_version import TorchVersion
from torch.utils import _pytree as pytree
from torch.utils._python_dispatch import TorchDispatchMode

from graphprune.core.graph import Kind
from graphprune.core.program import Inputs
from graphprune.frontends.torch.composed import take_apart
from graphprune.frontends.torch.forms import META, Choices, blank, form
from graphprune.frontends.torch.older import exporting, plain_kernels
from graphprune.frontends.torch.standins import StandIns
from graphprune.frontends.torch.tape import Tape
from graphprune.frontends.torch.traceable import (
    PLAIN,
    NotFollowedError,
    is_placed,
    is_source,
    module_paths,
    one_device,
    refuses_function,
    refuses_operation,
)
from graphprune.frontends.torch.traced import AUTOCAST_ARGUMENTS, Trace

_SINCE = "2.14"  # the release that it was held against torch.export with
_ATEN = torch.ops.aten
# Questions that are answered for the device of the model.
_DEVICES: Mapping[Any, Any] = {
    Tensor.device.__get__: lambda device: device,
    Tensor.is_cuda.__get__: lambda device: device.type == "cuda",  # type: ignore[attr-defined]
    Tensor.is_cpu.__get__: lambda device: device.type == "cpu",  # type: ignore[attr-defined]
    Tensor.is_meta.__get__: lambda _: False,  # type: ignore[attr-defined]
}
_DATA = Tensor.data.__get__  # type: ignore[attr-defined]
_OF_GRADIENTS = frozenset(
    getattr(Tensor, name).__get__ for name in ("requires_grad", "grad_fn", "is_leaf")
)
_LIFT, _LIFTED = _ATEN.lift_fresh.default, _ATEN.lift_fresh_copy.default
_SETS, _SCALAR = Tensor.__setitem__, _ATEN.scalar_tensor.default
_SPREADS = (_ATEN.view.default, _ATEN.expand.default)
_COPY, _FILL = _ATEN.copy_.default, _ATEN.fill_.Tensor


def trace(model: nn.Module, inputs: Inputs) -> Trace:
    """Note the calls that a module makes.

    What the code leaves on the module is for the caller to undo.

    Args:
        model: The module.
        inputs: Positional and keyword arguments for it.

    Raises:
        NotFollowedError: It has to be exported.
        Exception: Whatever its code raises on tensors without values.
    """
    if TorchVersion(torch.__version__) < _SINCE:
        raise NotFollowedError(f"PyTorch {torch.__version__}")
    tracer = _Tracer(model, inputs)
    found = tracer.traced()
    take_apart(found.graph, tracer.tape.device)
    return found


class _Tracer:
    """Follows one pass of a module.

    Attributes:
        tape: Where its calls are noted.
        stand_ins: What stands for its weights and inputs.
    """

    def __init__(self, model: nn.Module, inputs: Inputs) -> None:
        self._model, self._inputs = model, inputs
        self._parameters = dict(model.named_parameters(remove_duplicate=False))
        self._buffers = dict(model.named_buffers(remove_duplicate=False))
        self._paths = module_paths(model)
        device = one_device([*self._parameters.values(), *self._buffers.values()], inputs)
        self.tape, self.stand_ins = Tape(device), StandIns(self._paths)
        self._choices = Choices(device, self.tape.gradients)
        self._filling: set[int] = set()

    # --- the pass ---------------------------------------------------------------------------

    def traced(self) -> Trace:
        """Run the module's code."""
        stored: dict[fx.Node, tuple[Kind, str]] = {}
        weights: tuple[tuple[Kind, dict[str, Any]], ...] = (
            ("parameter", self._parameters),
            ("buffer", self._buffers),
        )
        for kind, tensors in weights:
            stored |= {self._placed(held): (kind, name) for name, held in tensors.items()}
        args, kwargs = pytree.tree_map_only(Tensor, self.stand_ins.blank, self._inputs)
        given = [x for x in pytree.tree_leaves(self._inputs) if isinstance(x, Tensor)]
        taken = [self._placed(x) for x in given]
        grad = torch.is_grad_enabled()
        with (
            self.stand_ins.placed(),
            self._scoped(),
            exporting(),
            plain_kernels(),
            torch.set_grad_enabled(grad),
        ):
            with enable_python_dispatcher(), _Functions(self), _Operations(self):
                result = self._model(*args, **kwargs)
            if self.tape.refused or torch.is_grad_enabled() is not grad:
                self.tape.refuse("it switches gradients")
            kept = self.stand_ins.kept()
            if kept:
                self.tape.refuse(kept)
        leaves = pytree.tree_leaves(result)
        if not all(isinstance(leaf, (Tensor, *PLAIN)) for leaf in leaves):
            self.tape.refuse("a result is no tensor")
        called = self._model, self._inputs, self._paths
        return self.tape.finished(*called, stored, taken, leaves)

    def _placed(self, tensor: Tensor) -> fx.Node:
        return self.tape.place(self.stand_ins.blank(tensor))

    @contextmanager
    def _scoped(self) -> Iterator[None]:
        """Know which module runs."""
        call = nn.Module.__call__

        def scoped(module: nn.Module, *args: Any, **kwargs: Any) -> Any:
            before = self.tape.path
            self.tape.path = self._paths.get(module, before)
            try:
                return call(module, *args, **kwargs)
            finally:
                self.tape.path = before

        nn.Module.__call__ = scoped  # type: ignore[method-assign]
        try:
            yield
        finally:
            nn.Module.__call__ = call  # type: ignore[method-assign]

    # --- calls ------------------------------------------------------------------------------

    def call(self, func: Any, args: Any, kwargs: Any) -> Any:
        """Note a call, and make it."""
        if self.tape.refused:
            self.tape.refuse(self.tape.refused)
        if refuses_operation(func, args):
            self.tape.refuse(f"{func} depends on values")
        if func is _LIFT:
            return self._lifted(args[0])
        out: Any = None
        if self.tape.function is _SETS and self.tape.device.type == "cpu":
            if func is _SCALAR:
                return self._lifted(torch.scalar_tensor(*args, dtype=kwargs["dtype"]))
            if func in _SPREADS and (id(args[0]) in self._filling or not args[0].dim()):
                return self._spread(func, args)
            if func is _COPY and id(args[1]) in self._filling:
                func, out = _FILL, args[0]
        node = self.tape.noted(func, self.tape.named(args), self.tape.named(kwargs))
        if out is None:
            out = form(func, args, kwargs)
        if out is None:
            out = self._choices.result(func, args, kwargs)
        if out is None:
            out = self._run(func, args, kwargs)
        self.tape.track(node, out)
        return out

    def _run(self, func: Any, args: Any, kwargs: Any) -> Any:
        if is_placed(func) or self.tape.lifts:
            kinds = (Tensor, torch.device)
            args, kwargs = pytree.tree_map_only(kinds, self._without, (args, kwargs))
        if kwargs.get("device") is None and is_source(func):
            if self.tape.device.type != "cpu":
                self.tape.refuse("a tensor on another device")
            kwargs = {**kwargs, "device": META}
        guards = torch._C._DisablePythonDispatcher(), torch._C._AutoDispatchBelowAutograd()
        try:
            return func(*args, **kwargs)
        except Exception as error:
            self.tape.refused = str(error)
            raise
        finally:
            del guards

    def _without(self, given: Tensor | torch.device) -> Tensor | torch.device:
        """The same without values."""
        if isinstance(given, torch.device):
            return META
        return given if given.is_meta else self.stand_ins.blank(given)

    def _lifted(self, tensor: Tensor) -> Tensor:
        """A tensor that the code makes of numbers."""
        if tensor.is_meta or tensor.device != self.tape.device:
            self.tape.refuse("a tensor on another device")
        node = self.tape.noted(_LIFTED, (self.tape.constant(tensor),), {})
        out = blank(tensor)
        self.tape.track(node, out)
        return out

    def _spread(self, func: Any, args: Any) -> Tensor:
        """A single element made as large as what it is written to; on the processor it fills it."""
        out: Tensor = self._run(func, args, {})
        self.tape.same(out, args[0])
        self._filling.add(id(out))
        return out

    def enter(self, given: Sequence[Any]) -> None:
        """Enter a region of a precision of its own; an error would keep the code from leaving."""
        self.tape.regions.append(dict(zip(AUTOCAST_ARGUMENTS, given, strict=False)))
        if self.tape.regions[-1].get("enabled", True):
            self.tape.refused = "it runs in another precision"


class _Functions(PreDispatchTorchFunctionMode):
    """Sees functions; only to one of that class regions of a precision make themselves known."""

    def __init__(self, tracer: _Tracer) -> None:
        TorchFunctionMode.__init__(self)
        self._tracer = tracer

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        tracer = self._tracer
        if func is autocast_mode._enter_autocast:
            return tracer.enter(args)
        if func is autocast_mode._exit_autocast:
            tracer.tape.regions.pop()
            return None
        tracer.tape.function = func
        tracer.tape.counts[func] += 1
        answer = _DEVICES.get(func)
        if answer is not None:
            return answer(tracer.tape.device)
        if refuses_function(func, args):
            tracer.tape.refuse(f"{func.__name__} is called")
        if func == _DATA:  # torch.export takes it for a constant
            return args[0].detach()
        if func in _OF_GRADIENTS and not tracer.stand_ins.has(args[0]):
            tracer.tape.refuse("it asks whether a result has gradients")
        return func(*args, **(kwargs or {}))


class _Operations(ProxyTorchDispatchMode):  # type: ignore[no-untyped-call]
    """Sees operations before they are decomposed, as only a mode of that class may."""

    def __init__(self, tracer: _Tracer) -> None:
        TorchDispatchMode.__init__(self, torch._C.DispatchKey.PreDispatch)  # type: ignore[no-untyped-call]
        self._tracer = tracer
        self._mode_key = torch._C._TorchDispatchModeKey.PROXY
        self.enter_stack = []

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if func is torch.ops.prim.device.default:
            return self._tracer.tape.device
        return self._tracer.call(func, args, kwargs or {})

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

import operator
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any, NoReturn

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
from graphprune.frontends.torch.forms import META, Choices, form
from graphprune.frontends.torch.older import exporting, plain_kernels
from graphprune.frontends.torch.traceable import (
    PLAIN,
    NotFollowedError,
    attributes,
    is_placed,
    is_plain,
    is_source,
    module_paths,
    one_device,
    refuses_function,
    refuses_operation,
)
from graphprune.frontends.torch.traced import (
    AUTOCAST,
    AUTOCAST_ARGUMENTS,
    Trace,
    input_names,
    rename,
    spelled,
)

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
_DETACH = _ATEN.detach.default
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
    return _Tracer(model, inputs).traced()


class _Tracer:
    """Follows one pass of a module.

    Attributes:
        device: Where its tensors would lie.
        path: The module that runs.
        function: The function that runs.
        counts: How often each function was called.
        regions: Arguments of the regions of a precision of their own that it is in.
        refused: Why it has to be exported, once that is known.
    """

    def __init__(self, model: nn.Module, inputs: Inputs) -> None:
        self._model, self._inputs = model, inputs
        self._parameters = dict(model.named_parameters(remove_duplicate=False))
        self._buffers = dict(model.named_buffers(remove_duplicate=False))
        self._paths = module_paths(model)
        self.device = one_device([*self._parameters.values(), *self._buffers.values()], inputs)
        self.path = ""
        self.function: Any = None
        self.counts: Counter[Any] = Counter()
        self.regions: list[dict[str, Any]] = []
        self.refused = ""
        self._graph = fx.Graph()
        self._blanks: dict[int, Tensor] = {}
        self._stand_ins: set[int] = set()
        self._known: dict[int, tuple[Tensor, fx.Node]] = {}  # held: no other gets their identity
        self._made: dict[int, tuple[Tensor, fx.Node]] = {}  # by their memory
        self._constants: dict[fx.Node, tuple[Tensor, str]] = {}
        self._places = 0
        self._choices = Choices(self.device, self._gradients)
        self._with: dict[fx.Node, bool] = {}  # whether what a node gives has gradients
        self._filling: set[int] = set()

    def refuse(self, why: str) -> NoReturn:
        """Say that the module has to be exported, whatever its code makes of the error."""
        self.refused = self.refused or why
        raise NotFollowedError(why)

    # --- the pass ---------------------------------------------------------------------------

    def traced(self) -> Trace:
        """Run the module's code."""
        stored: dict[fx.Node, tuple[Kind, str]] = {}
        weights: tuple[tuple[Kind, dict[str, Any]], ...] = (
            ("parameter", self._parameters),
            ("buffer", self._buffers),
        )
        for kind, tensors in weights:
            stored |= {self._placeholder(held): (kind, name) for name, held in tensors.items()}
        args, kwargs = pytree.tree_map_only(Tensor, self._blank, self._inputs)
        given = [x for x in pytree.tree_leaves(self._inputs) if isinstance(x, Tensor)]
        taken = [self._placeholder(x) for x in given]
        grad = torch.is_grad_enabled()
        with (
            self._blanked(),
            self._scoped(),
            exporting(),
            plain_kernels(),
            torch.set_grad_enabled(grad),
        ):
            with enable_python_dispatcher(), _Functions(self), _Operations(self):
                result = self._model(*args, **kwargs)
            if self.refused or torch.is_grad_enabled() is not grad:
                self.refuse("it switches gradients")
            self._check_kept()
        leaves = pytree.tree_leaves(result)
        if not all(isinstance(leaf, (Tensor, *PLAIN)) for leaf in leaves):
            self.refuse("a result is no tensor")
        self._graph.output([self._node(x) if isinstance(x, Tensor) else x for x in leaves])
        return self._finished(stored, taken)

    def _placeholder(self, tensor: Tensor) -> fx.Node:
        blank = self._blank(tensor)
        self._places += 1
        node = self._graph.placeholder(f"arg{self._places}_1")
        node.meta["val"] = blank
        self._known[id(blank)] = blank, node
        return node

    def _blank(self, tensor: Tensor) -> Tensor:
        """A tensor of the same form without values, the same each time."""
        if id(tensor) not in self._blanks:
            sizes = tensor.shape, tensor.stride()
            blank = torch.empty_strided(*sizes, dtype=tensor.dtype, device=META)
            if isinstance(tensor, nn.Parameter):
                blank = nn.Parameter(blank, tensor.requires_grad)
            self._blanks[id(tensor)] = blank.requires_grad_(tensor.requires_grad)
            self._stand_ins.add(id(blank))
        return self._blanks[id(tensor)]

    def stands_in(self, tensor: Tensor) -> bool:
        """Whether a tensor stands for one that is stored or given."""
        return id(tensor) in self._stand_ins

    @contextmanager
    def _blanked(self) -> Iterator[None]:
        """Tensors without values in place of all weights."""
        held: list[tuple[dict[str, Any], dict[str, Any]]] = []
        try:
            for module in self._paths:
                for store in (module._parameters, module._buffers):
                    held.append((store, dict(store)))
                    store.update(self._all_blank(store))
            yield
        finally:
            for store, before in held:
                store.clear()
                store.update(before)

    def _all_blank(self, store: Mapping[str, Tensor | None]) -> dict[str, Any]:
        return {name: self._blank(held) for name, held in store.items() if held is not None}

    @contextmanager
    def _scoped(self) -> Iterator[None]:
        """Know which module runs."""
        call = nn.Module.__call__

        def scoped(module: nn.Module, *args: Any, **kwargs: Any) -> Any:
            before = self.path
            self.path = self._paths.get(module, before)
            try:
                return call(module, *args, **kwargs)
            finally:
                self.path = before

        nn.Module.__call__ = scoped  # type: ignore[method-assign]
        try:
            yield
        finally:
            nn.Module.__call__ = call  # type: ignore[method-assign]

    def _check_kept(self) -> None:
        """See that the code keeps nothing of what it makes."""
        for module, path in self._paths.items():
            for name, held in module.__dict__.items():
                items = held.values() if isinstance(held, dict) else held
                for item in items if isinstance(held, dict | list | tuple) else [held]:
                    if isinstance(item, Tensor) and item.is_meta and not self.stands_in(item):
                        self.refuse(f"{path or 'the model'} keeps {name}")

    # --- calls ------------------------------------------------------------------------------

    def call(self, func: Any, args: Any, kwargs: Any) -> Any:
        """Note a call, and make it."""
        if self.refused:
            self.refuse(self.refused)
        if refuses_operation(func, args):
            self.refuse(f"{func} depends on values")
        if func is _LIFT:
            return self._lifted(args[0])
        out: Any = None
        if self.function is _SETS and self.device.type == "cpu":
            if func is _SCALAR:
                return self._lifted(torch.scalar_tensor(*args, dtype=kwargs["dtype"]))
            if func in _SPREADS and (id(args[0]) in self._filling or not args[0].dim()):
                return self._spread(func, args)
            if func is _COPY and id(args[1]) in self._filling:
                func, out = _FILL, args[0]
        node = self._noted(func, self._named(args), self._named(kwargs))
        if out is None:
            out = form(func, args, kwargs)
        if out is None:
            out = self._choices.result(func, args, kwargs)
        if out is None:
            out = self._run(func, args, kwargs)
        self._track(node, out)
        return out

    def _run(self, func: Any, args: Any, kwargs: Any) -> Any:
        if is_placed(func) or self._constants:
            kinds = (Tensor, torch.device)
            args, kwargs = pytree.tree_map_only(kinds, self._without, (args, kwargs))
        if kwargs.get("device") is None and is_source(func):
            if self.device.type != "cpu":
                self.refuse("a tensor on another device")
            kwargs = {**kwargs, "device": META}
        guards = torch._C._DisablePythonDispatcher(), torch._C._AutoDispatchBelowAutograd()
        try:
            return func(*args, **kwargs)
        except Exception as error:
            self.refused = str(error)
            raise
        finally:
            del guards

    def _without(self, given: Tensor | torch.device) -> Tensor | torch.device:
        """The same without values."""
        if isinstance(given, torch.device):
            return META
        return given if given.is_meta else self._blank(given)

    def _lifted(self, tensor: Tensor) -> Tensor:
        """A tensor that the code makes of numbers."""
        if tensor.is_meta or tensor.device != self.device:
            self.refuse("a tensor on another device")
        node = self._noted(_LIFTED, (self._constant(tensor),), {})
        sizes = tensor.shape, tensor.stride()
        out = torch.empty_strided(*sizes, dtype=tensor.dtype, device=META)
        self._track(node, out)
        return out

    def _spread(self, func: Any, args: Any) -> Tensor:
        """A single element made as large as what it is written to; on the processor it fills it."""
        out: Tensor = self._run(func, args, {})
        self._known[id(out)] = out, self._node(args[0])
        self._filling.add(id(out))
        return out

    def enter(self, given: Sequence[Any]) -> None:
        """Enter a region of a precision of its own; an error would keep the code from leaving."""
        self.regions.append(dict(zip(AUTOCAST_ARGUMENTS, given, strict=False)))
        if self.regions[-1].get("enabled", True):
            self.refused = "it runs in another precision"

    def _gradients(self, tensor: Tensor) -> bool:
        return tensor.requires_grad or self._with.get(self._node(tensor), False)

    def _noted(self, func: Any, args: Any, kwargs: Any) -> fx.Node:
        name = self._graph._target_to_str(func.overloadpacket.__name__)
        node = self._graph.create_node("call_function", func, args, kwargs, name)
        self._with[node] = (
            torch.is_grad_enabled()
            and func is not _DETACH
            and any(self._with.get(x) or _trains(x) for x in node.all_input_nodes)
        )
        node.meta["nn_module_stack"] = {self.path: (self.path, "")}
        if self.regions:
            node.meta[AUTOCAST] = self.regions[-1]
        if self.function is not None:
            name = self.function.__name__
            counted = f"{name}_{self.counts[self.function]}"
            node.meta["torch_fn"] = counted, f"{type(self.function).__name__}.{name}"
        return node

    def _track(self, node: fx.Node, out: Any) -> None:
        """Remember what a call gave."""
        node.meta["val"] = out
        if isinstance(out, Tensor):
            self._known[id(out)] = out, node
            self._with[node] = self._with[node] and out.is_floating_point()
            if is_placed(node.target):
                self._made[out.untyped_storage()._cdata] = out, node
        elif isinstance(out, list | tuple):
            for i, item in enumerate(out):
                if isinstance(item, Tensor):
                    part = self._graph.create_node(
                        "call_function", operator.getitem, (node, i), {}, "getitem"
                    )
                    part.meta["val"] = item
                    self._with[part] = self._with[node] and item.is_floating_point()
                    self._known[id(item)] = item, part
        elif out is not None:
            self.refuse(f"{node.target} gives a number")

    # --- operands ---------------------------------------------------------------------------

    def _named(self, tree: Any) -> Any:
        """Arguments with nodes in place of tensors, and the model's device."""
        if isinstance(tree, Tensor):
            return self._node(tree)
        if isinstance(tree, tuple):
            return tuple(self._named(item) for item in tree)
        if isinstance(tree, list):
            return [self._named(item) for item in tree]
        if isinstance(tree, dict):
            return {name: self._named(item) for name, item in tree.items()}
        if isinstance(tree, torch.device):
            if tree.type == "meta":
                return self.device
            if tree.type != self.device.type or tree.index not in (None, self.device.index):
                self.refuse("a tensor on another device")
        return tree

    def _node(self, tensor: Tensor) -> fx.Node:
        known = self._known.get(id(tensor))
        if known is not None:
            return known[1]
        if tensor.is_meta:
            # What functions make is handed on as another object with the same memory.
            made = self._made.get(tensor.untyped_storage()._cdata)
            if made is None or (made[0].shape, made[0].stride()) != (tensor.shape, tensor.stride()):
                self.refuse("a tensor from elsewhere")
            node = made[1]
        else:  # on a module, or outside
            if not is_plain(tensor, Tensor) or tensor.requires_grad:
                self.refuse("a tensor from elsewhere")
            if tensor.device != self.device:
                self.refuse("a tensor on another device")
            node = self._constant(tensor)
        self._known[id(tensor)] = tensor, node
        return node

    def _constant(self, tensor: Tensor) -> fx.Node:
        node = self._graph.create_node("get_attr", f"_tensor_constant{len(self._constants)}")
        self._constants[node] = tensor, self.path
        return node

    # --- the end ----------------------------------------------------------------------------

    def _finished(self, stored: dict[fx.Node, tuple[Kind, str]], taken: list[fx.Node]) -> Trace:
        """The calls, without those of no effect, under their names."""
        graph = self._graph
        for node in reversed(list(graph.nodes)):
            if node.target is _DETACH and not node.users:
                graph.erase_node(node)
        found = Trace(graph)
        names, lifted = attributes(self._paths), 0
        for node, (tensor, path) in self._constants.items():
            if node.users:
                name = names.get(id(tensor), "")
                if not name:
                    name = f"{path}.lifted_tensor_{lifted}".removeprefix(".")
                    lifted += 1
                with graph.inserting_before(taken[0] if taken else node):
                    place = graph.placeholder(f"c_{spelled(name)}")
                place.meta["val"] = found.tensors[name] = tensor
                stored[place] = "constant", name
                node.replace_all_uses_with(place)
            graph.erase_node(node)
        called = input_names(self._model, self._inputs)
        rename(found, stored, dict(zip(taken, called, strict=True)))
        return found


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
            tracer.regions.pop()
            return None
        tracer.function = func
        tracer.counts[func] += 1
        answer = _DEVICES.get(func)
        if answer is not None:
            return answer(tracer.device)
        if refuses_function(func, args):
            tracer.refuse(f"{func.__name__} is called")
        if func == _DATA:  # torch.export takes it for a constant
            return args[0].detach()
        if func in _OF_GRADIENTS and not tracer.stands_in(args[0]):
            tracer.refuse("it asks whether a result has gradients")
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
            return self._tracer.device
        return self._tracer.call(func, args, kwargs or {})


def _trains(node: fx.Node) -> bool:
    return node.op == "placeholder" and bool(node.meta["val"].requires_grad)

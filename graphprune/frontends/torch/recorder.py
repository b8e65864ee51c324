"""What a pass over a model shows: calls of its modules and methods, and what uses which weight."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Collection, Iterator, Mapping
from contextlib import contextmanager
from functools import wraps
from itertools import chain
from types import FunctionType
from typing import Any, TypeAlias

import torch
from torch import nn
from torch.overrides import TorchFunctionMode
from torch.utils import _pytree as pytree

Call: TypeAlias = "tuple[tuple[Any, ...], dict[str, Any]]"
Stack: TypeAlias = "tuple[str, ...]"
"""Paths of the modules and methods that run, the outermost first."""

_MOST_CALLS = 4  # distinct calls of a module that are kept


class Recorder(TorchFunctionMode):
    """Records calls of modules and of their methods, and which of them use which weight.

    Args:
        model: The model.
        hold: Makes what is kept of a tensor, which may be written to later.
        paths: Which modules and methods; all where not given, and of each a few calls of different
            kinds.
        most: How many calls of a kind to keep of these.

    Attributes:
        kinds: For each path its calls, by what those that one capture stands for have in common.
        users: For each weight, by identity, the stacks in which it is used.
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
        self.users: Mapping[int, set[Stack]] = defaultdict(set)
        self._hold = hold
        self._paths, self._most = paths, most
        self._model = model
        self._stack: Stack = ()
        self._weights = {id(weight) for weight in chain(model.parameters(), model.buffers())}

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        # A look at a weight's type or device does not depend on its shape.
        if getattr(func, "__name__", "") != "__get__" or func == torch.Tensor.shape.__get__:  # type: ignore[attr-defined]
            for leaf in pytree.tree_leaves((args, kwargs)):
                if id(leaf) in self._weights:
                    self.users[id(leaf)].add(self._stack)
        return func(*args, **kwargs)

    @contextmanager
    def recording(self) -> Iterator[None]:
        """Watch all modules, and the methods of their classes, for a while."""
        handles: list[Any] = []
        wrapped: list[tuple[nn.Module, str]] = []
        for path, module in self._model.named_modules():
            before, after = self._hooks(path)
            handles.append(module.register_forward_pre_hook(before, with_kwargs=True, prepend=True))
            handles.append(module.register_forward_hook(after, always_call=True))
            for name in methods(module):
                whole = f"{path}.{name}" if path else name
                module.__dict__[name] = self._watcher(whole, getattr(module, name))
                wrapped.append((module, name))
        try:
            yield
        finally:
            for handle in handles:
                handle.remove()
            for module, name in wrapped:
                module.__dict__.pop(name, None)

    def stacks(self) -> set[Stack]:
        """All stacks in which weights are used."""
        return set().union(*self.users.values())

    def _keeps(self, path: str, key: str) -> bool:
        """Whether to keep a call."""
        kinds = self.kinds[path]
        if self._paths is None:
            return key not in kinds and len(kinds) < _MOST_CALLS
        wanted = self._most is None or len(kinds.get(key, ())) < self._most
        return path in self._paths and wanted

    def _enter(self, path: str, call: Call) -> None:
        self._stack = (*self._stack, path)
        kinds = self.kinds[path]
        key = kind(call)
        if self._keeps(path, key) and not _transformed(call):
            kinds.setdefault(key, []).append(pytree.tree_map_only(torch.Tensor, self._hold, call))

    def _leave(self) -> None:
        self._stack = self._stack[:-1]

    def _hooks(self, path: str) -> tuple[Any, Any]:
        def before(module: nn.Module, args: Any, kwargs: Any) -> None:
            self._enter(path, (args, kwargs))

        def after(*_: Any) -> None:
            self._leave()

        return before, after

    def _watcher(self, path: str, method: Callable[..., Any]) -> Callable[..., Any]:
        @wraps(method)
        def watched(*args: Any, **kwargs: Any) -> Any:
            self._enter(path, (args, kwargs))
            try:
                return method(*args, **kwargs)
            finally:
                self._leave()

        return watched


def _transformed(call: Call) -> bool:
    """Whether some argument belongs to a transform of `torch.func`, outside which it is nothing."""
    wrapped = torch._C._functorch.is_functorch_wrapped_tensor
    return any(
        isinstance(leaf, torch.Tensor) and wrapped(leaf) for leaf in pytree.tree_leaves(call)
    )


def methods(module: nn.Module) -> list[str]:
    """Names of the methods that a module's own class adds to those that every module has."""
    own = (c for c in type(module).__mro__ if not c.__module__.startswith(("torch.", "builtins")))
    found = dict.fromkeys(
        name for c in own for name, held in vars(c).items() if isinstance(held, FunctionType)
    )
    known = {*dir(nn.Module), *module.__dict__}
    return [name for name in found if name not in known and not name.startswith("__")]


def kind(call: Call) -> str:
    """What the calls that one capture stands for have in common."""
    leaves, structure = pytree.tree_flatten(call)
    shown = [leaf.dim() if isinstance(leaf, torch.Tensor) else leaf for leaf in leaves]
    return str((shown, structure))  # a packed sequence cannot be rebuilt around numbers

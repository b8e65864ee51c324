"""tables: whether a module's code may keep tensors outside the module.

Code that keeps tables in a dictionary of its file, in a list, or behind `functools.lru_cache` must
have filled them before it is run on tensors without values: they would stay there, and the caller's
next run would find them.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from functools import lru_cache, wraps
from operator import is_
from types import CodeType, FunctionType
from typing import Any

from torch import Tensor, nn
from torch._C import DisableTorchFunction
from torch.utils._python_dispatch import _disable_current_modes

from graphprune.engine.state import KINDS_REMEMBERED

_CACHED = type(lru_cache(lambda: None))
_KEEPS = (dict, list, set, _CACHED)
_OF_PYTORCH = "torch"


def keeps_tables(model: nn.Module) -> bool:
    """Whether code of a module refers to anything outside that can hold what it makes.

    Functions that it calls are followed, but for PyTorch's own.

    Args:
        model: The module.
    """
    return any(True for _ in _tables(model))


@contextmanager
def tables_preserved(model: nn.Module) -> Iterator[None]:
    """Let a pass without values put none into tables outside a module.

    Dictionaries, lists and sets are as they were afterwards; what `functools.lru_cache` has to make
    is made with values, as the caller's next run would.

    Args:
        model: The module.
    """
    tables = {id(t): t for t in _tables(model) if not isinstance(t, _CACHED)}.values()
    before = [(table, _contents(table)) for table in tables]
    cached = list(_cached(model))
    try:
        for space, name, held in cached:
            _put(space, name, _with_values(held))
        yield
    finally:
        for space, name, held in cached:
            _put(space, name, held)
        for table, contents in before:
            now = _contents(table)
            if len(now) != len(contents) or not all(map(is_, now, contents)):
                _restore(table, contents)


def _cached(model: nn.Module) -> Iterator[tuple[Any, str, Any]]:
    """Functions behind a cache, and where they are found: in a file or a class."""
    for function in _functions(model):
        for name in _names(function.__code__):
            if isinstance(function.__globals__.get(name), _CACHED):
                yield function.__globals__, name, function.__globals__[name]
    for kind in _own_kinds(model):
        for name, held in vars(kind).items():
            if isinstance(held, _CACHED):
                yield kind, name, held


def _put(space: Any, name: str, held: Any) -> None:
    if isinstance(space, dict):
        space[name] = held
    else:
        setattr(space, name, held)


def _with_values(cached: Any) -> Any:
    """A function behind a cache that is called outside all that follows a pass."""

    @wraps(cached)
    def called(*args: Any, **kwargs: Any) -> Any:
        if any(isinstance(given, Tensor) for given in (*args, *kwargs.values())):
            return cached.__wrapped__(*args, **kwargs)
        with DisableTorchFunction(), _disable_current_modes():
            return cached(*args, **kwargs)

    return called


def _contents(table: Any) -> list[Any]:
    return [*table, *table.values()] if isinstance(table, dict) else [*table]


def _restore(table: Any, contents: list[Any]) -> None:
    table.clear()
    if isinstance(table, dict):
        half = len(contents) // 2
        table.update(zip(contents[:half], contents[half:], strict=True))
    elif isinstance(table, list):
        table.extend(contents)
    else:
        table.update(contents)


def _tables(model: nn.Module) -> Iterator[Any]:
    """What code of a module can keep tensors in, outside the modules themselves."""
    for function in _functions(model):
        yield from (item for item in _reached(function) if isinstance(item, _KEEPS))
    for kind in _own_kinds(model):
        yield from (item for item in vars(kind).values() if _is_shared_table(item))


def _is_shared_table(item: Any) -> bool:
    """Whether an attribute of a class is a cache: other dictionaries there are settings."""
    if isinstance(item, dict):
        return not item or any(isinstance(held, Tensor) for held in item.values())
    return isinstance(item, _CACHED)


def own_code(model: nn.Module) -> Iterator[CodeType]:
    """The code of a module's functions, and of those that they call, but for PyTorch's own.

    Args:
        model: The module.
    """
    return (function.__code__ for function in _functions(model))


def _functions(model: nn.Module) -> Iterator[FunctionType]:
    """The functions of a module's classes, and those that they refer to, but for PyTorch's own."""
    seen: set[int] = set()
    own = [vars(kind) for kind in _own_kinds(model)]
    held = [item for names in [*own, *map(vars, model.modules())] for item in names.values()]
    held = [item for item in held if _may_be_function(type(item))]  # type: ignore[arg-type]
    left = [function for item in held if isinstance(function := _function(item), FunctionType)]
    while left:
        function = left.pop()
        if id(function) in seen or _is_torch(function.__module__):
            continue
        seen.add(id(function))
        yield function
        left += [item for item in _reached(function) if isinstance(item, FunctionType)]


def _own_kinds(model: nn.Module) -> Iterator[type]:
    """The classes of a module and of those inside it, but for PyTorch's own."""
    kinds = {kind for module in model.modules() for kind in type(module).__mro__}
    return (kind for kind in kinds if not _is_torch(kind.__module__))


def _function(item: Any) -> Any:
    """The function of a method, of whatever kind, of a property, or behind a cache."""
    item = getattr(item, "__func__", None) or getattr(item, "fget", None) or item
    return item.__wrapped__ if isinstance(item, _CACHED) else item


@lru_cache(maxsize=KINDS_REMEMBERED)
def _may_be_function(kind: type) -> bool:
    """Whether there may be a function in objects of a class. Most attributes are of few classes."""
    return kind in (FunctionType, _CACHED) or hasattr(kind, "__func__") or hasattr(kind, "fget")


def _reached(function: FunctionType) -> Iterator[Any]:
    """What a function may refer to outside itself."""
    for name in _names(function.__code__):
        yield function.__globals__.get(name)
    for cell in function.__closure__ or ():
        try:
            yield cell.cell_contents
        except ValueError:  # not filled yet
            continue
    yield from function.__defaults__ or ()


def _names(code: CodeType) -> Iterator[str]:
    yield from code.co_names
    for inner in code.co_consts:
        if isinstance(inner, CodeType):
            yield from _names(inner)


def _is_torch(module: str | None) -> bool:
    return (module or "").partition(".")[0] == _OF_PYTORCH

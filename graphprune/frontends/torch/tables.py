"""tables: whether a module's code may keep tensors outside the module.

Code that keeps tables in a dictionary of its file, in a list, or behind `functools.lru_cache` must
have filled them before it is run on tensors without values: they would stay there, and the caller's
next run would find them.
"""

from __future__ import annotations

from collections.abc import Iterator
from functools import lru_cache
from types import CodeType, FunctionType
from typing import Any

from torch import nn

_CACHED = type(lru_cache(lambda: None))
_KEEPS = (dict, list, set, _CACHED)
_OF_PYTORCH = "torch"


def keeps_tables(model: nn.Module) -> bool:
    """Whether code of a module refers to anything outside that can hold what it makes.

    Functions that it calls are followed, but for PyTorch's own.

    Args:
        model: The module.
    """
    return any(
        isinstance(item, _KEEPS) for function in _functions(model) for item in _reached(function)
    )


def own_code(model: nn.Module) -> Iterator[CodeType]:
    """The code of a module's functions, and of those that they call, but for PyTorch's own.

    Args:
        model: The module.
    """
    return (function.__code__ for function in _functions(model))


def _functions(model: nn.Module) -> Iterator[FunctionType]:
    """The functions of a module's classes, and those that they refer to, but for PyTorch's own."""
    seen: set[int] = set()
    kinds = {kind for module in model.modules() for kind in type(module).__mro__}
    own = [vars(kind) for kind in kinds if not _is_torch(kind.__module__)]
    held = [item for names in [*own, *map(vars, model.modules())] for item in names.values()]
    left = [function for item in held if isinstance(function := _function(item), FunctionType)]
    while left:
        function = left.pop()
        if id(function) in seen or _is_torch(function.__module__):
            continue
        seen.add(id(function))
        yield function
        left += [item for item in _reached(function) if isinstance(item, FunctionType)]


def _function(item: Any) -> Any:
    """The function of a method, of whatever kind, or of a property."""
    return getattr(item, "__func__", None) or getattr(item, "fget", None) or item


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

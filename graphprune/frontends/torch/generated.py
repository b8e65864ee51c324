"""Modules whose forward is generated code, kept as source text.

A module is not replaced: its class becomes one that is derived from its own, with another
`forward`. So it keeps all that it holds (hooks, mode, attributes, weights that only training uses),
code that tells modules apart by `isinstance` goes on working, and unlike an fx.GraphModule it can
be deep-copied and pickled whole.
"""

from __future__ import annotations

import re
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import fx, nn
from torch.fx.graph_module import _format_import_block
from torch.package.importer import sys_importer

from graphprune.core.errors import GraphPruneError


class GeneratedModule(nn.Module):
    """Base of generated modules; each has a class of its own, made by `become`.

    Attributes:
        source: The Python source of `forward`, with its imports.
    """

    source: str

    def __reduce_ex__(self, protocol: object) -> tuple[Any, ...]:
        """Rebuild the class from its source."""
        return _blank, (_own(type(self)), self.source), self.__dict__


def become(module: nn.Module, graph: fx.Graph) -> None:
    """Give a module another `forward`.

    Args:
        module: The module; it and its class's other methods stay.
        graph: The code; `get_attr` nodes name what the module holds.

    Raises:
        TypeError: The module's class cannot be derived from.
    """
    code = graph.python_code("self")
    source = _format_import_block(code.globals, sys_importer) + "\n" + _guarded(code.src)
    kind = _derived(_own(type(module)), source)
    module.__dict__.pop("forward", None)
    module.__class__ = kind


def _own(kind: type) -> type:
    """The class that a generated one is derived from: the caller's.

    Not that of an `fx.GraphModule`, of which others run the graph in place of `forward`.
    """
    if issubclass(kind, fx.GraphModule):
        return nn.Module
    return next(k for k in kind.__mro__ if not issubclass(k, GeneratedModule))


def _derived(base: type, source: str) -> type[nn.Module]:
    name = f"Narrowed{base.__name__}"
    bases = (GeneratedModule,) if base is nn.Module else (GeneratedModule, base)
    held = {"forward": _compiled(name, source), "source": source, "__module__": base.__module__}
    return type(base)(name, bases, held)


def _blank(base: type, source: str) -> nn.Module:
    kind = _derived(base, source)
    return kind.__new__(kind)


def _compiled(name: str, source: str) -> Callable[..., Any]:
    namespace: dict[str, Any] = {}
    exec(compile(source, f"<generated {name}>", "exec"), namespace)
    return namespace["forward"]  # type: ignore[no-any-return]


def _guarded(source: str) -> str:
    """Code that switches gradients or mixed precision, in blocks that restore them on errors."""
    if "_set_grad_enabled" in source:
        source = _within(source, "torch.set_grad_enabled(torch.is_grad_enabled())")
    if "enter_autocast" in source:
        known = f"from {__name__} import autocast_left\n"
        source = known + _within(source, "autocast_left()")
    return source


def _within(source: str, context: str) -> str:
    before, head, body = re.split(r"(^def forward\(.*\n)", source, maxsplit=1, flags=re.M)
    return f"{before}{head}    with {context}:\n" + re.sub(r"^(?=.)", "    ", body, flags=re.M)


_entered = threading.local()


def enter_autocast(device: str, dtype: Any, enabled: bool, cached: bool | None) -> Any:
    """Enter a region of mixed precision, as `torch.autocast` does."""
    region = torch.amp.autocast_mode._enter_autocast(  # type: ignore[no-untyped-call]
        device, dtype, enabled, cached
    )
    _regions().append(region)
    return region


def leave_autocast(region: Any) -> None:
    """Leave a region of mixed precision."""
    torch.amp.autocast_mode._exit_autocast(region)  # type: ignore[no-untyped-call]
    _regions().remove(region)


@contextmanager
def autocast_left() -> Iterator[None]:
    """Leave the regions of mixed precision that an error kept open."""
    depth = len(_regions())
    try:
        yield
    finally:
        while len(_regions()) > depth:
            leave_autocast(_regions()[-1])


def _regions() -> list[Any]:
    """The regions that are open in this thread."""
    if not hasattr(_entered, "regions"):
        _entered.regions = []
    return _entered.regions  # type: ignore[no-any-return]


def only_size(tensor: torch.Tensor | None, dim: int, size: int, whose: str) -> None:
    """Refuse an input of another size than the one that generated code holds for.

    Args:
        tensor: The input; None where it is left out.
        dim: The dimension.
        size: What it must be.
        whose: The module, and the input's name.

    Raises:
        GraphPruneError: It is another one; the message tells the way out.
    """
    if tensor is not None and tensor.shape[dim] != size:
        raise GraphPruneError(
            f"{whose} has size {tensor.shape[dim]} in dimension {dim}; the module's code was "
            f"generated for {size}, and its numbers do not follow another size: shrink with "
            "example_inputs of the size that you need, or pass keep=[...] with the module's name"
        )


def only_given(tensor: torch.Tensor | None, whose: str) -> None:
    """Refuse to do without an input that generated code was made with.

    Raises:
        GraphPruneError: It is None; the message tells the way out.
    """
    if tensor is None:
        raise GraphPruneError(
            f"{whose} is None; the module's code was generated with it: shrink with example_inputs "
            "that leave it out, or pass keep=[...] with the module's name"
        )


def only_left_out(given: object, whose: str) -> None:
    """Refuse an input that generated code was made without.

    Raises:
        GraphPruneError: It is given; the message tells the way out.
    """
    if given is not None:
        raise GraphPruneError(
            f"{whose} is given; the module's code was generated without it: shrink with "
            "example_inputs that hold it, or pass keep=[...] with the module's name"
        )


def only_types(tensor: torch.Tensor | None, allowed: tuple[torch.dtype, ...], whose: str) -> None:
    """Refuse an input of a type that generated code does not follow; it may be left out.

    Raises:
        GraphPruneError: It is another one; the message tells the way out.
    """
    if tensor is not None and tensor.dtype not in allowed:
        raise GraphPruneError(
            f"{whose} is {tensor.dtype}; the module's code was generated for "
            f"{', '.join(map(str, allowed))}: convert the model before it is shrunk, or pass "
            "keep=[...] with the module's name"
        )


def only_evaluated(training: bool, whose: str) -> None:
    """Refuse training mode where the original's code does something else there.

    Raises:
        GraphPruneError: The module is in training mode; the message tells the way out.
    """
    if training:
        raise GraphPruneError(
            f"{whose} does something else in training mode, which its generated code does not: "
            "call eval() on it, or pass keep=[...] with the module's name"
        )


def in_mode(training: bool, trained: float, evaluated: float) -> float:
    """A number that is another one in training mode (how much attention drops)."""
    return trained if training else evaluated

"""Numbers that code takes from tensors whose values do not depend on the inputs.

A trace has tensors without values: strides that a detector keeps in a tensor, switches of a fake
quantizer, lengths of packed sequences, masks that code makes of a shape. Beside the trace, what is
made of small stored tensors and of shapes alone is computed, and code that asks for a number gets
it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from itertools import chain
from typing import Any

import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode
from torch.utils import _pytree as pytree
from torch.utils._python_dispatch import _disable_current_modes

from graphprune.core.program import Inputs
from graphprune.frontends.torch import packed

_MOST = 1 << 16  # elements of a tensor whose values are followed
_READS = {
    *(Tensor.item, Tensor.tolist, Tensor.__bool__, Tensor.__int__, Tensor.__float__),
    *(Tensor.__index__, Tensor.__contains__, torch.is_nonzero, torch.equal, Tensor.equal),
}
# Functions that take numbers where code may give tensors of one element.
_MAKERS = {
    *(torch.full, torch.full_like, torch.zeros, torch.ones, torch.empty, torch.arange),
    *(torch.linspace, torch.eye, torch.rand, torch.randn, Tensor.new_full, Tensor.new_zeros),
    *(Tensor.new_ones, Tensor.new_empty, Tensor.__getitem__, torch.split, Tensor.split),
    *(Tensor.view, Tensor.reshape, Tensor.expand, Tensor.repeat, torch.narrow, Tensor.narrow),
    *(nn.functional.pad, torch._C._nn.pad, torch.roll, Tensor.roll),
}
# Functions that take nothing from their first argument but shape and type.
_OF_SHAPES = {
    *(torch.zeros_like, torch.ones_like, torch.full_like),
    *(Tensor.new_zeros, Tensor.new_ones, Tensor.new_full, Tensor.new_tensor),
}
# Functions whose results have as many elements as the values say: they are constants of the trace.
_SIZED = {
    torch.nonzero,
    Tensor.nonzero,
    torch.argwhere,
    Tensor.argwhere,
    torch.unique,
    Tensor.unique,
}
_IN_PLACE = {f"__i{name}__" for name in (
    "add", "sub", "mul", "truediv", "floordiv", "mod", "pow", "and", "or", "xor", "lshift", "rshift"
)}  # fmt: skip
Held = dict[int, tuple[Tensor, Tensor | None]]
"""Traced tensors by identity with their values, None where they were lost."""
_DRAWS = ("rand", "normal", "uniform", "bernoulli", "dropout", "multinomial", "poisson", "empty")


class Known(TorchFunctionMode):
    """Follows values beside a trace.

    Args:
        model: The model that is traced.
        inputs: What it is traced with; of their values nothing is made but the lengths of packed
            sequences.
        original: Whose stored tensors have values, where the model is a blank copy of it.
    """

    def __init__(self, model: nn.Module, inputs: Inputs, original: nn.Module | None = None) -> None:
        super().__init__()
        self._model = model
        held = original or model
        self._inputs = [
            leaf.detach() if isinstance(leaf, Tensor) else leaf
            for leaf in pytree.tree_leaves(inputs)
        ]
        self._stored = {
            name: tensor.detach()
            for name, tensor in chain(held.named_parameters(), held.named_buffers())
            if tensor.numel() <= _MOST
        }
        self._traced: dict[int, str] = {}
        # The tensors are held, so that no other one gets their identity.
        self._values: Held = {}
        self._examples: Held = {}

    @contextmanager
    def following(self) -> Iterator[None]:
        """Follow values for a while."""
        hook = self._model.register_forward_pre_hook(self._taken, with_kwargs=True, prepend=True)
        try:
            with self:
                yield
        finally:
            hook.remove()

    def _taken(self, _: nn.Module, args: Any, kwargs: Any) -> None:
        # Weights have others in their place while the model is traced.
        weights = chain(self._model.named_parameters(), self._model.named_buffers())
        self._traced = {id(x): name for name, x in weights}
        given = pytree.tree_leaves((args, kwargs))
        for traced, real in zip(given, self._inputs, strict=False):
            if isinstance(real, Tensor) and real.numel() <= _MOST:
                self._examples[id(traced)] = traced, real

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        if func in _READS:
            values = self._all((args, kwargs), self._value)
            if values is not None:
                return _really(func, *values)
        if func in _SIZED:
            values = self._all((args, kwargs), self._value)
            if values is not None:
                return pytree.tree_map_only(Tensor, self._constant, _really(func, *values))
        if func in _MAKERS:
            args, kwargs = pytree.tree_map_only(Tensor, self._number, (args, kwargs))
        taken = packed.traced(func, args, kwargs, self.example)
        if taken is not None:
            result, known = taken
            for tensor, value in known:
                self._values[id(tensor)] = tensor, value
            return result
        given = _shaped(args, kwargs) if func in _OF_SHAPES else (args, kwargs)
        values = self._all(given, self._value)
        examples = self._all(given, self.example) if values is None else None
        result = func(*args, **kwargs)
        written = _written(func, args, kwargs)
        self._follow(func, written, result, values, self._values)
        self._follow(func, written, result, examples, self._examples)
        return result

    def _follow(
        self,
        func: Callable[..., Any],
        written: Tensor | None,
        result: Any,
        values: tuple[Any, Any] | None,
        held: Held,
    ) -> None:
        """Compute what a function made, or wrote to, where that is known."""
        made = [leaf for leaf in pytree.tree_leaves(result) if isinstance(leaf, Tensor)]
        sizes = [x.numel() for x in made]
        drawn = any(draw in getattr(func, "__name__", "") for draw in _DRAWS)
        if values is not None and not drawn and all(size <= _MOST for size in sizes):
            try:
                again = _really(func, *values)
            except Exception:  # what a trace allows and numbers do not
                again = None
            else:
                written = None
            real = [leaf for leaf in pytree.tree_leaves(again) if isinstance(leaf, Tensor)]
            for tensor, value in zip(made, real, strict=False):
                held[id(tensor)] = tensor, value
        if written is not None:
            self._lose(written, held)

    def _lose(self, written: Tensor, held: Held) -> None:
        """Forget the values of a tensor, and of all views of the same memory."""
        _, real = held.get(id(written), (None, None))
        for key, (tensor, value) in held.items():
            if real is not None and value is not None and _shares(real, value):
                held[key] = tensor, None
        held[id(written)] = written, None

    def _all(self, tree: Any, value: Callable[[Tensor], Tensor | None]) -> Any:
        """Arguments with the values of all tensors, or None where one is not known."""
        leaves, spec = pytree.tree_flatten(tree)
        found = [value(x) if isinstance(x, Tensor) else x for x in leaves]
        if any(f is None and isinstance(x, Tensor) for f, x in zip(found, leaves, strict=True)):
            return None
        return pytree.tree_unflatten(found, spec)

    def _value(self, tensor: Tensor) -> Tensor | None:
        """The values of a tensor that does not depend on the inputs, where they are known."""
        if id(tensor) in self._values:
            return self._values[id(tensor)][1]
        real = self._stored.get(self._traced.get(id(tensor), ""))
        if real is None and type(tensor) in (Tensor, nn.Parameter) and not tensor.is_meta:
            real = tensor if tensor.numel() <= _MOST else None
        if real is None:
            return None
        # Code may write to it.
        copied: Tensor = _really(Tensor.clone, (real,), {})
        self._values[id(tensor)] = tensor, copied
        return copied

    def example(self, tensor: Tensor) -> Tensor | None:
        """The values of a tensor for the example inputs, where they are known."""
        found = self._examples.get(id(tensor), (tensor, None))[1]
        return self._value(tensor) if found is None else found

    def _constant(self, value: Tensor) -> Tensor:
        """A tensor of known values, in the trace."""
        traced = torch.tensor(value.tolist(), dtype=value.dtype, device=value.device)
        self._values[id(traced)] = traced, value
        return traced

    def _number(self, tensor: Tensor) -> Any:
        if tensor.dim() or tensor.dtype is torch.bool:
            return tensor
        value = self._value(tensor)
        return tensor if value is None else _really(Tensor.item, (value,), {})


def _really(func: Callable[..., Any], args: Any, kwargs: Any) -> Any:
    """What a function makes of tensors with values, unseen by the trace."""
    with _disable_current_modes(), torch.no_grad():
        return func(*args, **kwargs)


def _shaped(args: Any, kwargs: Any) -> Any:
    """Arguments whose first one, of which a function takes shape and type alone, has values."""
    first, *others = args
    if not isinstance(first, Tensor) or not all(type(size) is int for size in first.shape):
        return args, kwargs
    made = _really(torch.empty, tuple(first.shape), {"dtype": first.dtype, "device": first.device})
    return (made, *others), kwargs


def _written(func: Callable[..., Any], args: Any, kwargs: Any) -> Tensor | None:
    """The tensor that a function writes to, if any."""
    name = getattr(func, "__name__", "")
    out = kwargs.get("out")
    if isinstance(out, Tensor):
        return out
    inside = name.endswith("_") and not name.endswith("__")
    if inside or kwargs.get("inplace") or name == "__setitem__" or name in _IN_PLACE:
        return args[0] if args and isinstance(args[0], Tensor) else None
    return None


def _shares(one: Tensor, other: Tensor) -> bool:
    """Whether two tensors lie in the same memory."""
    return one.untyped_storage().data_ptr() == other.untyped_storage().data_ptr()

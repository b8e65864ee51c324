"""Numbers that code takes from tensors whose values do not depend on the inputs.

A trace has tensors without values: strides that a detector keeps in a tensor, switches of a fake
quantizer, lengths of packed sequences. Beside the trace, what is made of small stored tensors alone
is computed, and code that asks for a number gets it.
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
        self._values: dict[int, tuple[Tensor, Tensor]] = {}
        self._examples: dict[int, tuple[Tensor, Tensor]] = {}

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
        if func in _MAKERS:
            args, kwargs = pytree.tree_map_only(Tensor, self._number, (args, kwargs))
        taken = packed.traced(func, args, kwargs, self.example)
        if taken is not None:
            result, known = taken
            for tensor, value in known:
                self._values[id(tensor)] = tensor, value
            return result
        values = self._all((args, kwargs), self._value)
        examples = self._all((args, kwargs), self.example) if values is None else None
        result = func(*args, **kwargs)
        self._follow(func, args, result, values, self._values)
        self._follow(func, args, result, examples, self._examples)
        return result

    def _follow(
        self,
        func: Callable[..., Any],
        args: Any,
        result: Any,
        values: tuple[Any, Any] | None,
        held: dict[int, tuple[Tensor, Tensor]],
    ) -> None:
        name = getattr(func, "__name__", "")
        if values is None:
            writes = name == "__setitem__" or (name.endswith("_") and not name.endswith("__"))
            if writes and args:
                held.pop(id(args[0]), None)
            return
        made = [leaf for leaf in pytree.tree_leaves(result) if isinstance(leaf, Tensor)]
        if name == "__setitem__" or any(x.numel() > _MOST for x in made):
            return
        if any(draw in name for draw in _DRAWS) or not made:
            return
        try:
            again = _really(func, *values)
        except Exception:  # what a trace allows and numbers do not
            return
        real = [leaf for leaf in pytree.tree_leaves(again) if isinstance(leaf, Tensor)]
        for tensor, value in zip(made, real, strict=False):
            held[id(tensor)] = tensor, value

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
        held = self._examples.get(id(tensor))
        return held[1] if held is not None else self._value(tensor)

    def _number(self, tensor: Tensor) -> Any:
        if tensor.dim() or tensor.dtype is torch.bool:
            return tensor
        value = self._value(tensor)
        return tensor if value is None else _really(Tensor.item, (value,), {})


def _really(func: Callable[..., Any], args: Any, kwargs: Any) -> Any:
    """What a function makes of tensors with values, unseen by the trace."""
    with _disable_current_modes(), torch.no_grad():
        return func(*args, **kwargs)

"""forms: results without values of frequent operations, whose kernels take long to say as much.

On tensors without values PyTorch runs many operations as Python code that decomposes them. What
they give follows from a few lengths. Only contiguous floating-point operands are spoken of here,
whose results are contiguous; for all else, and for operands that do not fit, the kernel is asked.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any, TypeAlias

import torch
from torch import Tensor
from torch._subclasses import FakeTensorMode
from torch.utils import _pytree as pytree

META = torch.device("meta")
"""Where tensors have no values."""
_ATEN = torch.ops.aten


def form(func: Any, args: Sequence[Any], kwargs: dict[str, Any]) -> Tensor | None:
    """What an operation gives, or None where its kernel is to be asked.

    Args:
        func: The operation.
        args: Its positional arguments, without those at the end that are left out.
        kwargs: Its keyword arguments.
    """
    known = _FORMS.get(func)
    if known is None or not _plain(args[0]):
        return None
    return known(*args, **kwargs)


@dataclass
class Choices:
    """Results of operations whose kernel, and so their strides, hang on device and gradients.

    Attributes:
        device: Where the tensors would lie.
        gradients: Whether a tensor would have gradients.
    """

    device: torch.device
    gradients: Callable[[Tensor], bool]
    _known: dict[str, Any] = field(default_factory=dict)

    def result(self, func: Any, args: Any, kwargs: Any) -> Any:
        """What an operation gives, or None where nothing hangs on these.

        Args:
            func: The operation.
            args: Its positional arguments, with tensors without values.
            kwargs: Its keyword arguments.
        """
        if func not in _CHOOSING:
            return None
        told = pytree.tree_map_only(Tensor, lambda x: (_form(x), self.gradients(x)), (args, kwargs))
        key = str((func, torch.is_grad_enabled(), told))
        if key not in self._known:
            with FakeTensorMode():
                args, kwargs = pytree.tree_map_only(Tensor, self._fake, (args, kwargs))
                found = func(*args, **kwargs)
            several = isinstance(found, list | tuple)
            self._known[key] = [_form(x) for x in found] if several else _form(found)
        known = self._known[key]
        return tuple(map(_of_form, known)) if isinstance(known, list) else _of_form(known)

    def _fake(self, x: Tensor) -> Tensor:
        fake = torch.empty_strided(x.shape, x.stride(), dtype=x.dtype, device=self.device)
        return fake.requires_grad_(self.gradients(x))


_Form: TypeAlias = "tuple[Sequence[int], Sequence[int], torch.dtype]"


def _form(x: Tensor) -> _Form:
    return tuple(x.shape), x.stride(), x.dtype


def _of_form(form: _Form) -> Tensor:
    shape, strides, dtype = form
    return torch.empty_strided(shape, strides, dtype=dtype, device=META)


def blank(tensor: Tensor) -> Tensor:
    """A tensor without values that lies in memory as one does."""
    return _of_form(_form(tensor))


def _plain(x: Any) -> bool:
    return isinstance(x, Tensor) and x.is_meta and x.is_floating_point() and x.is_contiguous()


def _made(shape: Sequence[int], x: Tensor) -> Tensor:
    return torch.empty(shape, dtype=x.dtype, device=META)


def _alike(x: Tensor, *_: Any, **__: Any) -> Tensor:
    return _made(x.shape, x)


def _itself(x: Tensor, *_: Any, **__: Any) -> Tensor:
    return x


def _both(x: Tensor, y: Any, alpha: Any = 1) -> Tensor | None:
    """One of two operands, or both, have the shape of the result."""
    if isinstance(y, int | float):
        return _made(x.shape, x)
    if not _plain(y) or y.dtype is not x.dtype or not x.dim() or not y.dim():
        return None
    wide, narrow = (x, y) if x.dim() >= y.dim() and x.numel() >= y.numel() else (y, x)
    sizes = wide.shape[wide.dim() - narrow.dim() :] if narrow.dim() <= wide.dim() else ()
    fits = narrow.dim() <= wide.dim() and all(
        n in (1, size) for n, size in zip(narrow.shape, sizes, strict=True)
    )
    return _made(wide.shape, x) if fits else None


def _into(x: Tensor, y: Any, alpha: Any = 1) -> Tensor | None:
    """What is written into the first of two operands."""
    made = _both(x, y, alpha)
    return x if made is not None and made.shape == x.shape else None


def _pooled(x: Tensor, sizes: Sequence[int]) -> Tensor | None:
    """Means over so many windows along the last dimensions."""
    if x.dim() != len(sizes) + 2 or not x.numel() or min(sizes) < 1:
        return None
    return _made((*x.shape[:2], *sizes), x)


def _linear(x: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor | None:
    if not x.dim() or weight.dim() != 2 or weight.dtype is not x.dtype:
        return None
    if x.shape[-1] != weight.shape[1]:
        return None
    if bias is not None and (bias.dtype is not x.dtype or bias.shape != weight.shape[:1]):
        return None
    return _made((*x.shape[:-1], weight.shape[0]), x)


def _convolution(
    x: Tensor,
    weight: Tensor,
    bias: Tensor | None = None,
    stride: Sequence[int] = (1,),
    padding: Sequence[int] = (0,),
    dilation: Sequence[int] = (1,),
    groups: int = 1,
) -> Tensor | None:
    if x.dim() != weight.dim() or weight.dtype is not x.dtype or not weight.is_contiguous():
        return None
    made, taken, *kernel = weight.shape
    fits = x.shape[1] == taken * groups and made % groups == 0 and _same((made,), bias)
    if not fits or (bias is not None and bias.dtype is not x.dtype):
        return None
    each = [(*given, *given[:1] * (len(kernel) - 1))[: len(kernel)] for given in
            (tuple(stride), tuple(padding), tuple(dilation))]  # fmt: skip
    sizes = [
        (length + 2 * before - apart * (taps - 1) - 1) // step + 1
        for length, taps, step, before, apart in zip(x.shape[2:], kernel, *each, strict=True)
    ]
    return _made((x.shape[0], made, *sizes), x) if min(sizes) > 0 else None


def _same(shape: Sequence[int], *weights: Tensor | None) -> bool:
    """Whether weights, where they are given, have a shape."""
    return all(w is None or tuple(w.shape) == tuple(shape) for w in weights)


def _batch_norm(
    x: Tensor, weight: Any, bias: Any, mean: Any, var: Any, training: bool, *_: Any
) -> Tensor | None:
    if x.dim() < 2 or training or mean is None or var is None:
        return None
    return _made(x.shape, x) if _same((x.shape[1],), weight, bias, mean, var) else None


def _layer_norm(
    x: Tensor, shape: Sequence[int], weight: Any = None, bias: Any = None, *_: Any
) -> Tensor | None:
    fits = 0 < len(shape) <= x.dim() and tuple(x.shape[-len(shape) :]) == tuple(shape)
    alike = all(w is None or w.dtype is x.dtype for w in (weight, bias))
    return _made(x.shape, x) if fits and alike and _same(shape, weight, bias) else None


def _group_norm(
    x: Tensor, groups: int, weight: Any = None, bias: Any = None, *_: Any
) -> Tensor | None:
    if x.dim() < 2 or not x.numel() or x.shape[1] % groups:
        return None
    alike = all(w is None or w.dtype is x.dtype for w in (weight, bias))
    return _made(x.shape, x) if alike and _same((x.shape[1],), weight, bias) else None


_ALIKE = (
    "relu gelu silu sigmoid tanh hardswish hardsigmoid leaky_relu elu celu mish softplus relu6 "
    "hardtanh"
)
_CHOOSING = frozenset(
    [
        _ATEN.scaled_dot_product_attention.default,
        _ATEN.embedding_bag.default,
        _ATEN.embedding_bag.padding_idx,
    ]
)
_FORMS: dict[Any, Callable[..., Tensor | None]] = {
    **{getattr(_ATEN, name).default: _alike for name in _ALIKE.split()},
    **{
        getattr(_ATEN, f"{name}_").default: _itself
        for name in _ALIKE.split()
        if hasattr(_ATEN, f"{name}_")
    },
    _ATEN.add.Tensor: _both,
    _ATEN.sub.Tensor: _both,
    _ATEN.mul.Tensor: _both,
    _ATEN.div.Tensor: _both,
    _ATEN.add_.Tensor: _into,
    _ATEN.mul_.Tensor: _into,
    **{getattr(_ATEN, f"adaptive_avg_pool{dims}d").default: _pooled for dims in (2, 3)},
    _ATEN.linear.default: _linear,
    **{getattr(_ATEN, f"conv{dims}d").default: _convolution for dims in (1, 2, 3)},
    _ATEN.batch_norm.default: _batch_norm,
    _ATEN.layer_norm.default: _layer_norm,
    _ATEN.group_norm.default: _group_norm,
}

"""Sizes of example inputs, from the model's own numbers.

1. What the model calls its image size comes first.
2. A linear layer behind a flatten takes one number of features: the smallest size that gives as
   many is found by halving, on tensors without values.
3. So does a table of positions, which has one for each patch.
4. A small net that takes any size gets one that suits its strides; a large one the usual 224.
5. A few likely sizes.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from math import isqrt, prod
from typing import Any

import torch
from torch import nn
from torch.nn.modules.conv import _ConvNd
from torch.nn.modules.pooling import _AvgPoolNd, _MaxPoolNd

from graphprune.engine.state import preserved, quiet

_SIDES = (224, 32, 28, 64, 8, 16, 128, 256, 299, 384, 512, 96, 48)
_STEPS = (128, 1024, 16000, 32, 16)
_DEPTHS = (16, 32, 112, 8)
_CLIPS = ((16, 224, 224), (16, 112, 112), (8, 224, 224))  # seldom as long as they are high
_USUAL = (32, 64, 128, 224)
_SMALL = 1_000_000  # parameters below which a net was hardly made for pictures of 224 x 224
_LAST = 7  # places a side that nets for pictures leave at their end: 224 is 7 x 32
_LONGEST = {1: 1 << 15, 2: 1 << 10, 3: 1 << 7}  # where the search for a size gives up
_OTHERS = 2  # tokens beside the patches: of the class, of a teacher


def images(model: nn.Module, first: _ConvNd) -> Iterator[tuple[int, ...]]:
    """Shapes without the batch that a model may accept, the likeliest first.

    Args:
        model: The model.
        first: Its first convolution.
    """
    spatial = len(first.kernel_size)
    seen: set[tuple[int, ...]] = set()
    for places in _places(model, first, spatial):
        if places not in seen:
            seen.add(places)
            yield (first.in_channels, *places)


def positions(model: nn.Module, width: int) -> list[int]:
    """Lengths of tables that may be added to tokens of a width: `1 x length x width`."""
    found = []
    for tensor in (*model.parameters(), *model.buffers()):
        shape = tuple(tensor.shape)
        if len(shape) == 3 and shape[0] == 1 and shape[2] == width and shape[1] not in found:
            found.append(shape[1])
    return found


def _places(model: nn.Module, first: _ConvNd, spatial: int) -> Iterator[tuple[int, ...]]:
    likely: Sequence[int] = {1: _STEPS, 2: _SIDES, 3: _DEPTHS}[spatial]
    if spatial == 2:
        yield from ((side, side) for side in (*_sides_named(model), *_of_patches(model, first)))
    large = sum(p.numel() for p in model.parameters()) >= _SMALL
    if spatial == 2 and large:
        yield (_USUAL[-1],) * 2
    fixed = _fixed(model, first, spatial)
    if fixed is not None:
        yield (fixed,) * spatial
    if spatial == 2:
        yield (_suiting(model),) * 2
    yield from ((size,) * spatial for size in likely)
    if spatial == 3:
        yield from _CLIPS


def _of_patches(model: nn.Module, first: _ConvNd) -> Iterator[int]:
    """Sides of pictures that a table of positions has one for each patch of, or some more."""
    for length in positions(model, first.out_channels):
        for others in range(_OTHERS + 1):
            places = isqrt(max(length - others, 0))
            if places > 1 and places * places == length - others:
                yield places * first.stride[0]


def _sides_named(model: nn.Module) -> list[int]:
    found = []
    for module in model.modules():
        for name in ("image_size", "img_size", "input_size", "resolution"):
            held = getattr(module, name, None)
            held = held[0] if isinstance(held, tuple | list) and held else held
            if isinstance(held, int) and held > 7 and held not in found:
                found.append(held)
    return found


def _suiting(model: nn.Module) -> int:
    """A side that leaves the last convolutions some places."""
    steps: dict[Any, int] = {}
    for module in model.modules():
        if isinstance(module, _ConvNd | _MaxPoolNd | _AvgPoolNd):
            given: Any = module.stride
            stride = int(given[0] if isinstance(given, tuple) else given)
            # Of branches side by side, which read the same channels, one counts.
            key = module.in_channels if isinstance(module, _ConvNd) and stride > 1 else module
            steps[key] = stride
    wanted = _LAST * prod(steps.values())
    return next((side for side in _USUAL if side >= wanted), _USUAL[-1])


# --- a linear layer behind a flatten --------------------------------------------------------------


class _Misfit(Exception):
    """The first linear layer behind convolutions is given another number of features."""

    def __init__(self, given: int, wanted: int) -> None:
        super().__init__()
        self.given, self.wanted = given, wanted


def _fixed(model: nn.Module, first: _ConvNd, spatial: int) -> int | None:
    """The smallest size at which linear layers get as many features as they take.

    None where there are none, or where any size gives as many.
    """
    linears = [m for m in model.modules() if isinstance(m, nn.Linear)]
    if not linears or _compared(model, first, linears, (_LONGEST[spatial],) * spatial) != 1:
        return None
    low, high = 0, _LONGEST[spatial]  # too small, and too large
    while high - low > 1:
        middle = (low + high) // 2
        sign = _compared(model, first, linears, (middle,) * spatial)
        low, high = (middle, high) if sign < 0 else (low, middle)
    fits = _compared(model, first, linears, (high,) * spatial) == 0
    return high if fits else None


def _compared(
    model: nn.Module, first: _ConvNd, linears: Sequence[nn.Linear], places: Sequence[int]
) -> int:
    """Whether a size is too small (-1) or too large (1) for a linear layer, or neither (0)."""

    def check(module: nn.Linear, args: tuple[Any, ...]) -> None:
        if args and isinstance(args[0], torch.Tensor) and args[0].dim() == 2:
            given = args[0].shape[-1]
            if given != module.in_features:
                raise _Misfit(given, module.in_features)

    handles = [module.register_forward_pre_hook(check) for module in linears]
    x = torch.empty(2, first.in_channels, *places, device="meta", dtype=first.weight.dtype)
    try:
        with preserved(model), torch.no_grad(), quiet():
            model.eval()
            _on_meta(model)(x)
    except _Misfit as misfit:
        return 1 if misfit.given > misfit.wanted else -1
    except Exception:  # too small for its windows, or it does not run on such tensors
        return -1
    finally:
        for handle in handles:
            handle.remove()
    return 0


def _on_meta(model: nn.Module) -> Any:
    """The model's code on weights without values."""
    tensors = {**dict(model.named_parameters()), **dict(model.named_buffers())}
    blank = {name: tensor.to("meta") for name, tensor in tensors.items()}
    return lambda x: torch.func.functional_call(model, blank, (x,))

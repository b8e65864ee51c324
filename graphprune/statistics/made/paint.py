"""paint: pictures for networks that see, where there are no data and no time to make better inputs.

Shapes of all sizes that cover one another have what photographs have and noise has not: edges, even
areas, and the same look at every scale (Lee, Mumford & Huang, Occlusion models for natural images,
2001; Baradad et al., Learning to see by looking at noise, 2021). Each has a colour that changes
slowly, and grain or stripes.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TypeAlias

import numpy as np
import numpy.typing as npt
import torch

Array: TypeAlias = npt.NDArray[np.float32]

_COLOURS = 4  # most channels of a picture
_LEAST = 8  # pixels that a side has, for shapes to be seen
_SHAPES, _LARGE = 60, 20  # in a picture, the large ones below the others
_RADII = (0.03, 0.5)  # of the picture
_BEYOND = 0.1  # of the picture, in which centres may lie around it
_TINT = 0.5  # standard deviation of channels around the brightness they share
_GRAIN = 1.5  # most, of a brightness of deviation 1; little is more frequent
_STRIPED = 0.3  # of the shapes
_WAVES = (2.0, 60.0)  # of stripes in a picture


def paintable(shape: Sequence[int]) -> bool:
    """Whether a sample of this shape can be a picture or a film.

    It is `c h w` or `c t h w`, or has its few colours last.
    """
    sides = shape[-3:-1] if _colours_last(shape) else shape[-2:]
    return len(shape) >= 3 and min(sides) >= _LEAST


def _colours_last(shape: Sequence[int]) -> bool:
    return len(shape) >= 3 and shape[-1] <= _COLOURS and shape[0] >= _LEAST


def painted(number: int, shape: Sequence[int], seed: int) -> torch.Tensor:
    """Pictures of random shapes.

    Args:
        number: How many.
        shape: Of one: channels, height and width, frames between them if there are any; or
            the channels last.
        seed: The same pictures for the same seed.

    Returns:
        `number x shape`, each channel of mean 0 and variance 1 over all of them.
    """
    if _colours_last(shape):
        return painted(number, (shape[-1], *shape[:-1]), seed).movedim(1, -1).contiguous()
    generator = np.random.default_rng(seed)
    height, width = shape[-2:]
    out: Array = np.empty((number, shape[0], height, width), np.float32)
    for picture in out:
        _paint(picture, generator)
    out -= out.mean((0, 2, 3), keepdims=True)
    out /= out.std((0, 2, 3), keepdims=True) + 1e-6
    found = torch.from_numpy(out)
    between = int(np.prod(shape[1:-2]))
    if not between or len(shape) == 3:
        return found
    frames = [found.roll((i, i), (-2, -1)) for i in range(between)]
    return torch.stack(frames, 2).reshape(number, *shape)


def _paint(picture: Array, generator: np.random.Generator) -> None:
    """Fill a picture, `c x h x w`, in place."""
    low, high = _RADII
    picture[:] = generator.standard_normal((len(picture), 1, 1))
    share = generator.random(_SHAPES)
    # Of radii of all scales an equal area each: their density falls with the third power.
    radii = (high**-2 + (low**-2 - high**-2) * share) ** -0.5
    radii[:_LARGE] = low + (high - low) * share[:_LARGE]
    for radius in radii:
        _cover(picture, float(radius), generator)


def _cover(picture: Array, radius: float, generator: np.random.Generator) -> None:
    """Paint one ellipse or rectangle of random place, turn, colour and texture."""
    channels, height, width = picture.shape
    y, x = generator.uniform(-_BEYOND, 1 + _BEYOND, 2)
    turn, slender = generator.uniform(0, np.pi), generator.uniform(0.5, 1.5)
    reach = 1.5 * radius * max(slender, 1 / slender)
    top, bottom = max(int((y - reach) * height), 0), min(int((y + reach) * height) + 1, height)
    left, right = max(int((x - reach) * width), 0), min(int((x + reach) * width) + 1, width)
    if top >= bottom or left >= right:
        return
    down = ((np.arange(top, bottom, dtype=np.float32) + 0.5) / height - y)[:, None]
    across = ((np.arange(left, right, dtype=np.float32) + 0.5) / width - x)[None]
    along = (down * np.cos(turn) + across * np.sin(turn)) * slender
    aside = (across * np.cos(turn) - down * np.sin(turn)) / slender
    round_ = generator.random() < 0.5
    far = np.hypot(along, aside) if round_ else np.maximum(abs(along), abs(aside))
    colour = generator.standard_normal() + _TINT * generator.standard_normal((channels, 1, 1))
    slope = generator.standard_normal(2)
    texture = slope[0] * down + slope[1] * across + _texture(along, generator)
    part = picture[:, top:bottom, left:right]
    np.copyto(part, colour + texture, where=far < radius, casting="same_kind")


def _texture(along: Array, generator: np.random.Generator) -> Array:
    """Grain, and stripes across a direction in some shapes."""
    grain = _GRAIN * generator.random() ** 3
    out: Array = np.float32(grain) * generator.standard_normal(along.shape, dtype=np.float32)
    if generator.random() < _STRIPED:
        waves = np.exp(generator.uniform(*np.log(_WAVES)))
        phase = generator.uniform(0, 2 * np.pi)
        out += generator.random() * np.sin(2 * np.pi * waves * along + phase)
    return out

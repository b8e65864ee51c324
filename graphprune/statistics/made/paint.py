"""paint: pictures of random shapes, for networks that read images where there is nothing better.

Shapes of all sizes that cover one another ("dead leaves") have statistics of photographs that noise
lacks: edges, even areas, and no preferred scale (Lee, Mumford & Huang, Occlusion models for natural
images, IJCV 2001; Baradad et al., Learning to see by looking at noise, NeurIPS 2021). Each shape is
an ellipse or a rectangle, with a colour, a gradient of brightness, grain, and in part stripes.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TypeAlias

import numpy as np
import numpy.typing as npt
import torch

from graphprune.statistics.constants import (
    BEYOND,
    COLOURS_MOST,
    GRAIN_MOST,
    RADII,
    SHAPES,
    SHAPES_LARGE,
    SIDE_LEAST,
    STRIPED,
    TINT,
    WAVES,
)

Array: TypeAlias = npt.NDArray[np.float32]


def paintable(shape: Sequence[int]) -> bool:
    """Whether a sample of this shape can be a picture, `c h w`, or a film, `c t h w`.

    Channels may be last: where the last dimension has at most `COLOURS_MOST`.
    """
    sides = shape[-3:-1] if _colours_last(shape) else shape[-2:]
    return len(shape) >= 3 and min(sides) >= SIDE_LEAST


def _colours_last(shape: Sequence[int]) -> bool:
    return len(shape) >= 3 and shape[-1] <= COLOURS_MOST and shape[0] >= SIDE_LEAST


def painted(number: int, shape: Sequence[int], seed: int) -> torch.Tensor:
    """Pictures of random shapes.

    Args:
        number: Number of pictures.
        shape: The shape of one: `c h w`, `c t h w`, or with channels last.
        seed: The same seed gives the same pictures.

    Returns:
        `number x shape`. Each channel has mean 0 and variance 1 over all pictures. Frames of a film
        show one picture moving diagonally.
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
    """Paint a picture, `c x h x w`, in place."""
    low, high = RADII
    picture[:] = generator.standard_normal((len(picture), 1, 1))
    share = generator.random(SHAPES)
    # The density of radii r falls as r⁻³: each scale covers an equal area, as in photographs.
    radii = (high**-2 + (low**-2 - high**-2) * share) ** -0.5
    radii[:SHAPES_LARGE] = low + (high - low) * share[:SHAPES_LARGE]
    for radius in radii:
        _cover(picture, float(radius), generator)


def _cover(picture: Array, radius: float, generator: np.random.Generator) -> None:
    """Paint one ellipse or rectangle of random place, rotation, proportions, colour and texture.

    Args:
        picture: `c x h x w`, changed in place.
        radius: Half of its mean width, as a share of the picture.
        generator: The source of randomness.
    """
    channels, height, width = picture.shape
    y, x = generator.uniform(-BEYOND, 1 + BEYOND, 2)
    turn, slender = generator.uniform(0, np.pi), generator.uniform(0.5, 1.5)
    # No shape reaches beyond √2 radii (a rectangle's corner) times its proportions.
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
    colour = generator.standard_normal() + TINT * generator.standard_normal((channels, 1, 1))
    slope = generator.standard_normal(2)
    texture = slope[0] * down + slope[1] * across + _texture(along, generator)
    part = picture[:, top:bottom, left:right]
    np.copyto(part, colour + texture, where=far < radius, casting="same_kind")


def _texture(along: Array, generator: np.random.Generator) -> Array:
    """Grain, and in `STRIPED` of the shapes stripes across the direction `along`."""
    grain = GRAIN_MOST * generator.random() ** 3  # the cube: mostly weak
    out: Array = np.float32(grain) * generator.standard_normal(along.shape, dtype=np.float32)
    if generator.random() < STRIPED:
        waves = np.exp(generator.uniform(*np.log(WAVES)))
        phase = generator.uniform(0, 2 * np.pi)
        out += generator.random() * np.sin(2 * np.pi * waves * along + phase)
    return out

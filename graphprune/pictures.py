"""A folder of pictures as calibration data, prepared as networks for photographs take them.

Each is scaled so that its short side fits, cut to the middle, and normalised. Size, mean and
deviation are the model's own where it tells them (timm's `pretrained_cfg`, an ONNX file's input);
else those of ImageNet, and what is assumed is said.
"""

from __future__ import annotations

from collections.abc import Sequence
from importlib import import_module
from pathlib import Path
from typing import Any

import numpy as np
import torch

from graphprune.core.errors import GraphPruneError
from graphprune.core.progress import announce

_KINDS = (".bmp", ".gif", ".jpeg", ".jpg", ".png", ".tif", ".tiff", ".webp")
_SIZE = (224, 224)
_MEAN, _DEVIATION = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)  # of ImageNet's pictures


def read_pictures(
    folder: Path, model: Any, most: int, size: Sequence[int] | None = None
) -> torch.Tensor:
    """The pictures of a folder, and of those in it, in the order of their names.

    Args:
        folder: The folder.
        model: Tells size, mean and deviation, where it has a `pretrained_cfg`.
        most: Read no more than this many, evenly chosen.
        size: Height and width, where they are known.

    Returns:
        `n x 3 x height x width`, normalised.

    Raises:
        GraphPruneError: There are none, one cannot be read, or Pillow is not installed.
    """
    try:
        image = import_module("PIL.Image")
    except ImportError:
        raise GraphPruneError(f"{folder}: pictures need Pillow: pip install pillow") from None
    found = sorted(path for path in folder.rglob("*") if path.suffix.lower() in _KINDS)
    if not found:
        raise GraphPruneError(f"there are no pictures in {folder} ({', '.join(_KINDS)})")
    told = getattr(model, "pretrained_cfg", None) or {}
    height, width = size or tuple(told.get("input_size", (3, *_SIZE)))[-2:]
    mean, deviation = told.get("mean", _MEAN), told.get("std", _DEVIATION)
    _say(folder, height, width, size is not None or "input_size" in told, "mean" in told)
    at = np.linspace(0, len(found) - 1, min(most, len(found))).round().astype(int)
    out = []
    for path in (found[i] for i in at):
        try:
            with image.open(path) as picture:
                out.append(_fitted(picture.convert("RGB"), height, width))
        except OSError as error:
            raise GraphPruneError(f"cannot read {path}: {error}") from error
    pixels = torch.from_numpy(np.stack(out)).movedim(-1, 1).float() / 255
    normal = torch.tensor([mean, deviation], dtype=torch.float32)[:, None, :, None, None]
    return (pixels - normal[0]) / normal[1]


def _say(folder: Path, height: int, width: int, sized: bool, centred: bool) -> None:
    """Say how pictures are read, as far as that is assumed."""
    guessed = []
    if not sized:
        guessed.append(
            "the size is a guess, as the model tells none: example_inputs= (--input-size) names it"
        )
    if not centred:
        guessed.append("mean and deviation are taken to be ImageNet's")
    if guessed:
        announce(f"pictures of {folder} are read at {height} x {width}: {'; '.join(guessed)}")


def _fitted(picture: Any, height: int, width: int) -> Any:
    """The middle of a picture, as large as is asked for."""
    share = max(height / picture.height, width / picture.width)
    whole = max(round(picture.width * share), width), max(round(picture.height * share), height)
    scaled = picture.resize(whole)
    left, top = (whole[0] - width) // 2, (whole[1] - height) // 2
    return np.asarray(scaled.crop((left, top, left + width, top + height)), np.uint8)

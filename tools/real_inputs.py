"""Real inputs for real models: photographs, rendered words and pages, spoken sentences."""

from __future__ import annotations

import re
import subprocess
import tempfile
import wave
from functools import lru_cache
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np
import numpy.typing as npt
from PIL import Image, ImageDraw, ImageFont

Array: TypeAlias = "npt.NDArray[Any]"

MEAN, STD = np.array([0.485, 0.456, 0.406]), np.array([0.229, 0.224, 0.225])
_VOICES = ("en-us", "en-gb", "en-us+f3", "en-gb+m5", "en-us+m2", "en-gb+f2")


@lru_cache
def photographs(folder: Path) -> list[Image.Image]:
    names = "astronaut coffee chelsea motorcycle_left rocket retina color ihc brick grass gravel"
    paths = (folder / "skimage" / "data" / name for name in names.split())
    found = [next(iter(path.parent.glob(f"{path.name}.*")), None) for path in paths]
    return [Image.open(path).convert("RGB") for path in found if path is not None]


def crops(folder: Path, number: int, seed: int, size: int = 224) -> Array:
    """Random crops of photographs, as ImageNet models take them."""
    rng, pictures = np.random.default_rng(seed), photographs(folder)
    out = []
    for i in range(number):
        photograph = pictures[i % len(pictures)]
        side = int(min(photograph.size) * rng.uniform(0.4, 1.0))
        x, y = (int(rng.integers(0, length - side + 1)) for length in photograph.size)
        crop = photograph.crop((x, y, x + side, y + side)).resize((size, size))
        out.append(crop.transpose(Image.Transpose.FLIP_LEFT_RIGHT) if rng.random() < 0.5 else crop)
    return normalised(out, MEAN, STD)


def normalised(images: list[Image.Image], mean: Any, std: Any) -> Array:
    stacked: Array = np.stack([(np.asarray(image) / 255 - mean) / std for image in images])
    return np.ascontiguousarray(stacked.transpose(0, 3, 1, 2), np.float32)


@lru_cache
def text() -> list[str]:
    """Sentences of Python's documentation."""
    from pydoc_data.topics import topics

    flat = re.sub(r"\s+", " ", " ".join(topics.values()))
    sentences = re.findall(r"[A-Z][a-z,' -]{30,120}[a-z]\.", flat)
    return list(dict.fromkeys(sentences))


def words(number: int, seed: int) -> list[str]:
    known = sorted({w for s in text() for w in re.findall(r"[A-Za-z]{4,12}", s)})
    rng = np.random.default_rng(seed)
    return [known[i] for i in rng.integers(0, len(known), number)]


@lru_cache
def _font(size: int, bold: bool) -> Any:
    fonts = Path("/usr/share/fonts/truetype/dejavu")
    path = fonts / ("DejaVuSerif.ttf" if bold else "DejaVuSans.ttf")
    return ImageFont.truetype(path, size) if path.exists() else ImageFont.load_default(size)


def rendered(words: list[str], seed: int, width: int, height: int = 48) -> list[Image.Image]:
    """One word in each picture, dark on light or light on dark."""
    rng, out = np.random.default_rng(seed), []
    for word in words:
        light, dark = int(rng.integers(170, 256)), int(rng.integers(0, 90))
        ground, ink = (light, dark) if rng.random() < 0.7 else (dark, light)
        image = Image.new("RGB", (width, height), (ground,) * 3)
        size = int(rng.integers(20, 30))
        ImageDraw.Draw(image).text(
            (6, (height - size) // 2 - 4), word, (ink,) * 3, _font(size, bool(rng.random() < 0.5))
        )
        out.append(image)
    return out


def pages(folder: Path, number: int, seed: int, size: int = 320) -> list[Image.Image]:
    """Lines of words on paper or on photographs."""
    rng, out = np.random.default_rng(seed), []
    pictures = photographs(folder)
    for i in range(number):
        page = Image.new("RGB", (size, size), (int(rng.integers(200, 256)),) * 3)
        if i % 2:
            page = pictures[i // 2 % len(pictures)].resize((size, size))
        draw = ImageDraw.Draw(page)
        for word in words(int(rng.integers(5, 12)), seed * 1000 + i):
            place = (int(rng.integers(0, size - 90)), int(rng.integers(0, size - 30)))
            ink = (0, 0, 0) if i % 2 == 0 or rng.random() < 0.5 else (255, 255, 255)
            draw.text(place, word, ink, _font(int(rng.integers(14, 30)), False))
        out.append(page)
    return out


@lru_cache
def speech(number: int, start: int, rate: int) -> Array:
    """Spoken sentences, half a second between them, with a little noise."""
    rng, parts = np.random.default_rng(start), []
    with tempfile.TemporaryDirectory() as folder:
        for i, sentence in enumerate(text()[start : start + number]):
            path = Path(folder) / "speech.wav"
            voice = _VOICES[(start + i) % len(_VOICES)]
            subprocess.run(
                ["espeak-ng", "-v", voice, "-p", str(int(rng.integers(20, 80))), "-w", path,
                 sentence], check=True,
            )  # fmt: skip
            with wave.open(str(path)) as file:
                own, data = file.getframerate(), file.readframes(file.getnframes())
            sound = np.frombuffer(data, np.int16) / 32768
            places = np.arange(0, len(sound) - 1, own / rate)
            parts += [np.interp(places, np.arange(len(sound)), sound), np.zeros(rate // 2)]
    joined = np.concatenate(parts)
    return (joined + 1e-3 * rng.standard_normal(len(joined))).astype(np.float32)

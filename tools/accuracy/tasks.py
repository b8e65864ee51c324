"""Data with labels, split into training, validation (for choices) and test images or words."""

from __future__ import annotations

import gzip
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TypeAlias

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from accuracy import nets
from accuracy.fetch import debian

Split: TypeAlias = tuple[Tensor, Tensor]

_LISTS = {
    "wamerican": "american-english",
    "wngerman": "ngerman",
    "wfrench": "french",
    "witalian": "italian",
    "wspanish": "spanish",
}
_TRAINED, _CHOSEN, _TESTED = 10_000, 1_000, 2_000
_LETTERS = "abcdefghijklmnopqrstuvwxyzàáâäçèéêëìíîïñòóôöùúûüßœæ'-"


@dataclass(frozen=True)
class Task:
    """Inputs with labels, and the networks that are trained on them.

    Attributes:
        train: What networks learn from; calibration samples are its first 256.
        validation: For choices of methods and their settings.
        test: For figures that are published.
        nets: Makes an untrained network, by name.
        epochs: How long networks are trained; `slow` ones longer.
        noisy: Changes a batch of training inputs a little.
    """

    train: Split
    validation: Split
    test: Split
    nets: dict[str, Callable[[], nn.Module]]
    epochs: dict[str, int]
    noisy: Callable[[Tensor, torch.Generator], Tensor]

    @property
    def inputs(self) -> Tensor:
        """256 inputs of the training split, for methods that may see data."""
        return self.train[0][:256]

    @property
    def labels(self) -> Tensor:
        """Their labels."""
        return self.train[1][:256]


def digits(seed: int) -> Task:
    """scikit-learn's handwritten digits, 8 x 8: 1,000 / 197 / 600, split anew for each seed."""
    from sklearn.datasets import load_digits

    data = load_digits()
    images = torch.from_numpy(data.images.astype(np.float32) / 8 - 1).unsqueeze(1)
    labels = torch.from_numpy(data.target)
    order = torch.randperm(len(images), generator=torch.Generator().manual_seed(1000 + seed))
    parts = [(images[i], labels[i]) for i in (order[:1000], order[1000:1197], order[1197:])]
    epochs = {"": 24, "ViT": 72, "Mixer": 72, "LSTM": 72}
    return Task(parts[0], parts[1], parts[2], _images(8), epochs, _shifted)


def fashion(seed: int) -> Task:
    """Fashion-MNIST (Xiao et al. 2017) at 14 x 14: 10,000 / 1,000 / 2,000 of its images.

    Training and validation images are of its training split, test images of its test split.
    """
    home = debian("dataset-fashion-mnist") / "usr/share/datasets/fashion-mnist"
    generator = torch.Generator().manual_seed(1000 + seed)
    images, labels = _idx(home, "train")
    order = torch.randperm(len(images), generator=generator)[: _TRAINED + _CHOSEN]
    images, labels = images[order], labels[order]
    tested, truth = _idx(home, "t10k")
    order = torch.randperm(len(tested), generator=generator)[:_TESTED]
    epochs = {"": 5, "ViT": 10, "Mixer": 10, "LSTM": 10}
    return Task(
        (images[:_TRAINED], labels[:_TRAINED]), (images[_TRAINED:], labels[_TRAINED:]),
        (tested[order], truth[order]), _images(14), epochs, _shifted,
    )  # fmt: skip


def fashion_tested() -> Split:
    """The whole test split of Fashion-MNIST at 14 x 14: 10,000 images."""
    return _idx(debian("dataset-fashion-mnist") / "usr/share/datasets/fashion-mnist", "t10k")


def _idx(home: Path, part: str) -> Split:
    """One split, at half of its resolution, from the files of LeCun's format."""
    pixels = gzip.decompress((home / f"{part}-images-idx3-ubyte.gz").read_bytes())[16:]
    labels = gzip.decompress((home / f"{part}-labels-idx1-ubyte.gz").read_bytes())[8:]
    images = np.frombuffer(pixels, np.uint8).reshape(-1, 1, 28, 28).astype(np.float32)
    small = F.avg_pool2d(torch.from_numpy(images), 2) / 127.5 - 1
    return small, torch.from_numpy(np.frombuffer(labels, np.uint8).astype(np.int64))


def words(seed: int) -> Task:
    """The language of a word from its letters: five of Debian's word lists, 10,000 / 1,000 / 2,000.

    Words that stand in several lists are left out.
    """
    lists = [_list(package, name) for package, name in _LISTS.items()]
    generator = np.random.default_rng(1000 + seed)
    each = (_TRAINED + _CHOSEN + _TESTED) // len(lists)
    inputs, labels = [], []
    for number, own in enumerate(lists):
        alone = sorted(own.difference(*(o for o in lists if o is not own)))
        for index in generator.choice(len(alone), each, replace=False):
            inputs.append(_tokens(alone[index]))
            labels.append(number)
    order = torch.from_numpy(generator.permutation(len(labels)))
    x, y = torch.tensor(inputs)[order], torch.tensor(labels)[order]
    ends = (slice(_TRAINED), slice(_TRAINED, _TRAINED + _CHOSEN), slice(_TRAINED + _CHOSEN, None))
    parts = [(x[end], y[end]) for end in ends]
    return Task(parts[0], parts[1], parts[2], dict(nets.WORDS), {"": 12}, lambda batch, _: batch)


def _list(package: str, name: str) -> set[str]:
    text = (debian(package) / "usr/share/dict" / name).read_text(encoding="utf-8")
    found = {word.lower() for word in text.split()}
    return {word for word in found if 4 <= len(word) < nets.LONGEST and set(word) <= _KNOWN}


_KNOWN = set(_LETTERS)


def _tokens(word: str) -> list[int]:
    ids = [1, *(2 + _LETTERS.index(letter) for letter in word)]
    return ids + [0] * (nets.LONGEST - len(ids))


def _images(size: int) -> dict[str, Callable[[], nn.Module]]:
    return {name: partial(make, size) for name, make in nets.IMAGES.items()}


def _shifted(images: Tensor, generator: torch.Generator) -> Tensor:
    shift = torch.randint(-1, 2, (2,), generator=generator).tolist()
    return torch.roll(images, shift, (2, 3))


TASKS: dict[str, Callable[[int], Task]] = {"digits": digits, "fashion": fashion, "words": words}

"""Calibration data of every kind becomes the same batches."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

from graphprune import GraphPruneError
from graphprune.statistics.batches import read_batches

X = torch.arange(120.0).view(40, 3)
Y = torch.arange(40)


class Two(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(3, 2)

    def forward(self, a: torch.Tensor, b: torch.Tensor) -> torch.Tensor:
        return self.layer(a + b)


@pytest.mark.parametrize(
    "data",
    [
        X,
        X.numpy(),
        (X, Y),
        (X.numpy(), Y.numpy()),
        TensorDataset(X, Y),
        DataLoader(TensorDataset(X, Y), batch_size=7),
        [X[:20], X[20:]],
        [(X, Y)],
        [((X,), Y)],
        iter([X]),
        [{"input": X, "labels": Y}],
    ],
    ids=lambda d: type(d).__name__,
)
def test_every_kind_of_data_gives_the_same_samples(data: Any) -> None:
    batches = read_batches(data, nn.Linear(3, 2))
    found = torch.cat([b.args[0] if b.args else b.kwargs["input"] for b in batches])
    assert torch.equal(found, X)
    assert sum(b.samples for b in batches) == 40
    labels = [b.labels for b in batches if b.labels is not None]
    assert not labels or torch.equal(torch.cat(labels), Y)


def test_no_more_samples_are_read_than_wanted() -> None:
    loader = DataLoader(TensorDataset(X, Y), batch_size=16)
    batches = read_batches(loader, nn.Linear(3, 2), samples=20)
    assert [b.samples for b in batches] == [16, 4]
    assert batches[1].labels.tolist() == [16, 17, 18, 19]


def test_models_of_several_arguments_tell_inputs_from_labels() -> None:
    assert read_batches([(X, X)], Two())[0].labels is None
    with_labels = read_batches([(X, X, Y)], Two())[0]
    assert len(with_labels.args) == 2
    assert torch.equal(with_labels.labels, Y)


def test_floats_take_the_type_of_the_model() -> None:
    (batch,) = read_batches(np.ones((4, 3)), nn.Linear(3, 2).bfloat16())
    assert batch.args[0].dtype == torch.bfloat16


def test_parts_of_a_batch() -> None:
    (batch,) = read_batches([(X, Y)], nn.Linear(3, 2))
    parts = list(batch.split(16))
    assert [p.samples for p in parts] == [16, 16]
    assert parts[1].labels.tolist() == list(range(16, 32))


@pytest.mark.parametrize("data", [[], 3, "text", [(X, Y, X)], [3], [torch.tensor(1.0)]], ids=str)
def test_what_is_no_data_is_named(data: Any) -> None:
    with pytest.raises(GraphPruneError, match="data"):
        read_batches(data, nn.Linear(3, 2))


def test_a_pair_of_all_arguments_and_labels() -> None:
    class Two(nn.Module):
        def forward(self, x: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
            return x + y

    x, y, labels = torch.ones(4, 3), torch.zeros(4, 3), torch.arange(4)
    (batch,) = read_batches([((x, y), labels)], Two())
    assert len(batch.args) == 2
    assert torch.equal(batch.labels, labels)
    (batch,) = read_batches([(x, y)], Two())
    assert batch.labels is None


def test_a_list_of_images_is_one_argument_and_boxes_are_labels() -> None:
    class Detector(nn.Module):
        def forward(self, images: list[torch.Tensor], targets: object = None) -> torch.Tensor:
            return images[0]

    images = [torch.ones(3, 8, 8), torch.ones(3, 8, 8)]
    targets = [{"boxes": torch.ones(1, 4)}, {"boxes": torch.ones(1, 4)}]
    (batch,) = read_batches([(images, targets)], Detector())
    assert len(batch.args) == 1
    assert len(batch.args[0]) == 2
    assert batch.labels[0]["boxes"].shape == (1, 4)
    (batch,) = read_batches([(images,)], Detector())
    assert len(batch.args[0]) == 2
    assert batch.labels is None

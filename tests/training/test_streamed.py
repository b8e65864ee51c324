"""Loaders that `recover` reads anew in each pass."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn
from torch.utils.data import DataLoader, Dataset, IterableDataset, TensorDataset

import graphprune
from graphprune import recover
from graphprune.core.errors import GraphPruneError
from graphprune.training import streamed
from graphprune.training.streamed import Streamed, is_read_again
from tests.training.nets import INPUTS, LABELS, cnn

NUMBERS = torch.arange(32)


class Noisy(Dataset[tuple[torch.Tensor, torch.Tensor]]):
    """Images with new noise each time, and which one each is."""

    def __len__(self) -> int:
        return len(INPUTS)

    def __getitem__(self, index: int) -> tuple[torch.Tensor, torch.Tensor]:
        return INPUTS[index] + 0.1 * torch.randn(3, 8, 8), NUMBERS[index]


class Stream(IterableDataset[tuple[torch.Tensor, torch.Tensor]]):
    """The same without indices."""

    def __iter__(self) -> Iterator[tuple[torch.Tensor, torch.Tensor]]:
        return (Noisy()[index] for index in range(len(INPUTS)))


class Batches:
    """Batches of three, of a class of the caller's own."""

    def __iter__(self) -> Iterator[list[torch.Tensor]]:
        return iter(DataLoader(Noisy(), batch_size=3))


LOADERS = {
    "shuffled": lambda: DataLoader(Noisy(), batch_size=6, shuffle=True),
    "in order": lambda: DataLoader(Noisy(), batch_size=6),
    "data set": Noisy,
    "stream": lambda: DataLoader(Stream(), batch_size=6),
    "bare stream": Stream,
    "own class": Batches,
}


@pytest.mark.parametrize("kind", LOADERS)
def test_each_pass_reads_anew_all_but_what_is_held_out(kind: str) -> None:
    torch.manual_seed(0)
    data = LOADERS[kind]()
    assert is_read_again(data)
    samples = Streamed(data, cnn(), 8, torch.Generator().manual_seed(0))
    held = [int(i) for batch in samples.hold_out() for i in batch.labels]
    passes = [[drawn.batch() for drawn in samples()] for _ in range(2)]
    assert [len(one) for one in passes] == [samples.steps] * 2 == [3, 3]
    orders = [[int(i) for batch in one for i in batch.labels] for one in passes]
    assert len(held) == 8 and all(sorted(held + order) == list(range(32)) for order in orders)
    assert orders[0] != orders[1]
    images = [
        {int(i): x for batch in one for x, i in zip(batch.args[0], batch.labels, strict=True)}
        for one in passes
    ]
    assert not any(torch.equal(images[0][i], images[1][i]) for i in images[0])


def test_what_can_be_read_once_stays_in_memory() -> None:
    assert not any(map(is_read_again, (INPUTS, [INPUTS], (INPUTS, LABELS), iter([INPUTS]), "x")))
    assert not is_read_again(batch for batch in [INPUTS])


def test_little_of_a_loader_is_in_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(streamed, "MEMORY", 4 * INPUTS[0].nbytes)
    alive: list[int] = []
    fill = streamed.Window.fill

    def counted(window: Any, memory: int, samples: int = 0) -> None:
        fill(window, memory, samples)
        alive.append(window.samples)

    monkeypatch.setattr(streamed.Window, "fill", counted)
    loader = DataLoader(Noisy(), batch_size=2)
    samples = Streamed(loader, cnn(), 4, torch.Generator().manual_seed(0))
    assert sum(batch.samples for batch in samples.hold_out()) == 4
    assert sum(len(drawn.places) for drawn in samples()) == 28
    assert max(alive) < 8  # two batches, and no rest of one sample


def test_a_sampler_of_the_callers_own_is_obeyed() -> None:
    """Samples that it leaves out are neither trained on nor held out; weights count."""
    sampler = torch.utils.data.SubsetRandomSampler(list(range(10, 30)))
    samples = Streamed(
        DataLoader(Noisy(), batch_size=5, sampler=sampler), cnn(), 4,
        torch.Generator().manual_seed(0),
    )  # fmt: skip
    held = [int(i) for batch in samples.hold_out() for i in batch.labels]
    order = [int(i) for drawn in samples() for i in drawn.batch().labels]
    assert sorted(held + order) == list(range(10, 30))


def test_recovery_learns_from_new_images_and_repeats_itself(pair: tuple[Any, Any]) -> None:
    model, small = pair
    seen: list[torch.Tensor] = []

    def loss(output: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
        if output.requires_grad:
            seen.append(labels)
        return nn.functional.cross_entropy(output, LABELS[labels])

    def recovered(**options: Any) -> Any:
        torch.manual_seed(3)
        loader = DataLoader(Noisy(), batch_size=8, shuffle=True)
        return recover(small, model, loader, batch_size=8, epochs=6, **options).graphprune_recovery

    one, two = recovered(loss=loss), recovered(loss=loss)
    assert one.losses == two.losses and one.after == two.after < one.before
    assert one.steps == 18 and len(seen) == 36


def test_a_loader_without_noise_trains_as_its_tensor(pair: tuple[Any, Any]) -> None:
    """What is held out differs, the result hardly."""
    model, small = pair
    whole = recover(small, model, INPUTS, batch_size=8, epochs=6)
    loader = DataLoader(TensorDataset(INPUTS), batch_size=8)
    read = recover(small, model, loader, batch_size=8, epochs=6)
    apart = [nn.functional.mse_loss(net(INPUTS), model(INPUTS)) for net in (small, whole, read)]
    assert apart[2] < 1.5 * apart[1] < 0.6 * apart[0]


def test_labels_and_samples_that_lack_are_told(pair: tuple[Any, Any]) -> None:
    model, small = pair
    with pytest.raises(GraphPruneError, match="needs labels"):
        recover(small, model, DataLoader(TensorDataset(INPUTS)), loss=True)
    with pytest.raises(GraphPruneError, match="at least two samples"):
        recover(small, model, DataLoader(TensorDataset(INPUTS[:1])))
    with pytest.raises(GraphPruneError, match="at least two samples"):
        recover(small, model, DataLoader(TensorDataset(INPUTS[:0])))


def test_a_deployment_reads_a_loader_in_each_pass_of_its_recovery(tmp_path: Path) -> None:
    read: list[int] = []

    class Counted(Noisy):
        def __getitem__(self, index: int) -> tuple[torch.Tensor, torch.Tensor]:
            read.append(index)
            return super().__getitem__(index)

    done = graphprune.deploy(
        cnn().eval(), 0.3, out=tmp_path / "small.onnx", data=DataLoader(Counted(), batch_size=8),
        recover={"epochs": 3, "batch_size": 8}, int8=False, compensate=False,
    )  # fmt: skip
    assert [stage.name for stage in done.stages] == ["original", "shrink", "recover"]
    times = sorted(read.count(index) for index in range(32))
    # 8 are what stages are compared on, 8 are held out of the training, 16 are trained on.
    assert times == [1] * 8 + [2] * 8 + [4] * 16

"""Loaders that `recover` reads anew in each pass, so that augmentation and order are new each time.

Of their samples those are in memory that are held out, those that are being shuffled, and those
that are read meanwhile.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from typing import Any, TypeAlias

import torch
from torch import nn
from torch.utils import _pytree as pytree
from torch.utils.data import (
    BatchSampler,
    DataLoader,
    Dataset,
    IterableDataset,
    RandomSampler,
    SequentialSampler,
)

from graphprune.core.batch import Batch
from graphprune.core.errors import GraphPruneError
from graphprune.statistics.batches import is_array, reading
from graphprune.training.constants import BATCH, HELD_OUT, MEMORY, SAMPLES
from graphprune.training.shuffled import Drawn, Shuffled


def is_read_again(data: Any) -> bool:
    """Whether data may give new batches when they are read again; a list gives the same."""
    if isinstance(data, DataLoader | Dataset):
        return True
    known = isinstance(data, list | tuple | str | bytes | Mapping) or is_array(data)
    if known or not isinstance(data, Iterable) or isinstance(data, Iterator):
        return False
    return iter(data) is not iter(data)


def source_of(data: Any, model: nn.Module, generator: torch.Generator) -> Source:
    """Data that `is_read_again`, with samples that can be held out of all passes.

    Args:
        data: The data; one of these sources stays what it is.
        model: Tells how batches are read.
        generator: What chooses samples, and shuffles a loader that does not.
    """
    if isinstance(data, Indexed | Iterated):
        return data
    loader = DataLoader(data, batch_size=BATCH) if isinstance(data, Dataset) else data
    indices = _indices(loader)
    if indices is None:
        return Iterated(loader, model)
    return Indexed(loader, indices, model, generator)


class Streamed:
    """The samples of a loader, read anew in each pass.

    Samples of equal shapes are shuffled among those that fit in `MEMORY`, beside what the loader
    itself shuffles. What is held out is read once, and left out of every pass.

    Args:
        data: What `is_read_again`.
        model: Tells how batches are read.
        size: Samples of a batch, at most.
        generator: What shuffles.

    Attributes:
        known: Batches of some of its shapes: those that are held out.

    Raises:
        GraphPruneError: There are fewer than two samples, or a batch cannot be read.
    """

    def __init__(self, data: Any, model: nn.Module, size: int, generator: torch.Generator) -> None:
        self._generator = generator
        self._source = source_of(data, model, generator)
        number = self._source.samples
        if number < 2:
            raise GraphPruneError("recover needs at least two samples: one of them is held out")
        self._size = min(size, -(-number // 2))
        wanted = max(1, number // self._size // HELD_OUT) * self._size
        self.known = self._source.hold_out(min(wanted, number - 1))

    @property
    def steps(self) -> int:
        """About how many batches a pass gives."""
        return max(1, -(-self._source.samples // self._size))

    def hold_out(self) -> list[Batch]:
        """What is held out, as batches."""
        return [one.batch() for one in Shuffled(self.known, self._size, self._generator)()]

    def __call__(self) -> Iterator[Drawn]:
        """A pass. While one part of the samples is used, the next is read."""
        source = iter(self._source)
        window = Window(source)
        window.fill(MEMORY, self._size)
        if not window.batches:
            raise GraphPruneError("data: there is nothing in it but what is held out")
        while window.batches:
            following, given = Window(source), 0
            for drawn in Shuffled(window.batches, self._size, self._generator)():
                yield drawn
                given += len(drawn.places)
                following.fill(MEMORY * given // window.samples)
            following.fill(MEMORY, self._size)
            window = following


class Window:
    """Consecutive batches of a pass that are in memory.

    Attributes:
        batches: The batches.
        samples: How many they hold.
    """

    def __init__(self, source: Iterator[Batch]) -> None:
        self._source, self._memory = source, 0
        self.batches: list[Batch] = []
        self.samples = 0

    def fill(self, memory: int, size: int = 0) -> None:
        """Read on until there are so many bytes, and samples for batches of a size.

        There should be one batch at least, and no rest of one sample: it would be left out.
        """
        while (
            self._memory < memory or self.samples < size or (size > 1 and self.samples % size == 1)
        ):
            batch = next(self._source, None)
            if batch is None:
                break
            self.batches.append(batch)
            self.samples += batch.samples
            self._memory += _bytes(batch)


class Indexed:
    """A `DataLoader` over a data set with indices: random ones are held out.

    One that keeps the order of the indices is read in a new one each time.

    Attributes:
        samples: How many a pass gives.
    """

    def __init__(
        self, loader: DataLoader[Any], indices: list[int], model: nn.Module,
        generator: torch.Generator,
    ) -> None:  # fmt: skip
        self._loader, self._model, self._indices = loader, model, indices
        self._generator = generator
        self._gone: set[int] = set()
        self.samples = len(indices)
        self._left = loader

    def hold_out(self, number: int) -> list[Batch]:
        """Read so many samples, or what fits in `MEMORY`, that come in no pass from now on."""
        own = sorted(set(self._indices) - self._gone)
        number = max(1, min(number, len(own) - 1))
        order = torch.randperm(len(own), generator=self._generator)[:number]
        parts = [[own[i] for i in part] for part in torch.split(order, BATCH)]
        window = Window(reading(self._over(parts), self._model))
        window.fill(MEMORY)
        self._gone.update(i for part in parts[: len(window.batches)] for i in part)
        self.samples = sum(i not in self._gone for i in self._indices)
        self._left = self._over(_Without(self._order(), self._gone))
        return window.batches

    def __iter__(self) -> Iterator[Batch]:
        return reading(self._left, self._model)

    def _order(self) -> Iterable[list[int]]:
        own = self._loader.batch_sampler
        if type(self._loader.sampler) is SequentialSampler and type(own) is BatchSampler:
            order = RandomSampler(self._loader.sampler.data_source, generator=self._generator)
            return BatchSampler(order, own.batch_size, own.drop_last)
        assert own is not None
        return own

    def _over(self, batches: Iterable[list[int]]) -> DataLoader[Any]:
        """The loader, with other indices."""
        own = self._loader
        return DataLoader(
            own.dataset, batch_sampler=batches, num_workers=own.num_workers,
            collate_fn=own.collate_fn, pin_memory=own.pin_memory, timeout=own.timeout,
            worker_init_fn=own.worker_init_fn, prefetch_factor=own.prefetch_factor,
            multiprocessing_context=own.multiprocessing_context, generator=own.generator,
            persistent_workers=own.persistent_workers,
        )  # fmt: skip


class _Without:
    """Batches of indices without those that are held out."""

    def __init__(self, batches: Iterable[list[int]], gone: set[int]) -> None:
        self._batches, self._gone = batches, gone

    def __iter__(self) -> Iterator[list[int]]:
        left = ([i for i in batch if i not in self._gone] for batch in self._batches)
        return (batch for batch in left if batch)


class Iterated:
    """Any other iterable of batches: the first samples are held out, and left out of each pass.

    One that tells no number of batches is read once to count, and its passes end after `SAMPLES`.

    Attributes:
        samples: About how many a pass gives.
    """

    def __init__(self, data: Any, model: nn.Module) -> None:
        self._data, self._model, self._first = data, model, 0
        batches = _length(data) if isinstance(data, DataLoader) else None
        self._most: int | None = None
        if batches is None:
            self._most = SAMPLES
            self.samples = sum(batch.samples for batch in self)
        else:
            first = next(reading(data, model), None)
            self.samples = 0 if first is None else batches * first.samples

    def hold_out(self, number: int) -> list[Batch]:
        """Read so many samples, or what fits in `MEMORY`, that come in no pass from now on."""
        out: list[Batch] = []
        taken = memory = 0
        for batch in self:
            out.append(batch.head(number - taken))
            taken += out[-1].samples
            memory += _bytes(out[-1])
            if taken >= number or memory >= MEMORY:
                break
        self._first += taken
        self.samples -= taken
        return out

    def __iter__(self) -> Iterator[Batch]:
        left, number = self._first, 0
        for batch in reading(self._data, self._model):
            if self._most is not None and number >= self._most:
                return
            number += batch.samples
            if batch.samples > left:
                yield batch.part(left, batch.samples)
            left = max(0, left - batch.samples)


Source: TypeAlias = Indexed | Iterated
"""Whose `hold_out` takes samples out of all passes, and whose iterators are passes."""


def _length(data: Any) -> int | None:
    try:
        return len(data)
    except TypeError:  # a stream
        return None


def _indices(loader: Any) -> list[int] | None:
    """The indices of a pass of a loader; None where it has none that can be left out."""
    if type(loader) is not DataLoader or isinstance(loader.dataset, IterableDataset):
        return None
    own = loader.batch_sampler
    if own is None or _length(own) is None:
        return None
    found = [index for batch in own for index in batch]
    return found if all(isinstance(index, int) for index in found) else None


def _bytes(batch: Batch) -> int:
    leaves = pytree.tree_leaves((batch.args, batch.kwargs, batch.labels))
    return sum(x.nbytes for x in leaves if isinstance(x, torch.Tensor))

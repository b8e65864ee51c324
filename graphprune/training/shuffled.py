"""The samples that `recover` trains on: batches of any size, cut and shuffled anew each epoch."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch.utils import _pytree as pytree

from graphprune.core.batch import Batch
from graphprune.core.errors import GraphPruneError
from graphprune.training.constants import HELD_OUT


class Shuffled:
    """Batches of one size, of other samples each time.

    Samples of equal shapes may meet in a batch, whatever batches they came in. Batches that hold
    what belongs to no sample (a mask that all share) stay by themselves, cut where they are larger.

    Args:
        batches: The samples; not copied.
        size: Samples of a batch, at most.
        generator: What shuffles.

    Attributes:
        known: The batches.
    """

    def __init__(self, batches: Sequence[Batch], size: int, generator: torch.Generator) -> None:
        self.known = batches
        kinds: dict[Any, list[Batch]] = {}
        for number, batch in enumerate(batches):
            kinds.setdefault(_kind(batch) or number, []).append(batch)
        self._kinds = [[(b, i) for b in held for i in range(b.samples)] for held in kinds.values()]
        self._size, self._generator = size, generator

    @property
    def steps(self) -> int:
        """How many batches there are, but for those of one sample."""
        counts = [len(places) for places in self._kinds]
        return sum(n // self._size + (n % self._size > 1) for n in counts) or sum(counts)

    def __call__(self) -> list[Drawn]:
        """All samples in a new order. A rest of one sample is left out: a batch norm needs two."""
        drawn = []
        for places in self._kinds:
            order = torch.randperm(len(places), generator=self._generator)
            drawn += [Drawn([places[i] for i in part]) for part in torch.split(order, self._size)]
        whole = [one for one in drawn if len(one.places) > 1] or drawn
        order = torch.randperm(len(whole), generator=self._generator)
        return [whole[i] for i in order]

    def hold_out(self) -> list[Batch]:
        """Take one batch of `HELD_OUT` out, at least one: what is held out does not come again.

        Raises:
            GraphPruneError: There is one sample in all.
        """
        number = sum(map(len, self._kinds))
        if number < 2:
            raise GraphPruneError("recover needs at least two samples: one of them is held out")
        self._size = min(self._size, -(-number // 2))
        drawn = self()
        held = drawn[: max(1, len(drawn) // HELD_OUT)]
        gone = {(id(batch), i) for one in held for batch, i in one.places}
        left = [[(b, i) for b, i in kind if (id(b), i) not in gone] for kind in self._kinds]
        self._kinds = [kind for kind in left if kind]
        return [one.batch() for one in held]


class Drawn:
    """A batch that is put together when it is needed.

    Attributes:
        places: For each sample the batch that holds it, and its position there.
    """

    def __init__(self, places: list[tuple[Batch, int]]) -> None:
        self.places = places

    def batch(self) -> Batch:
        """The samples as one batch."""
        number = len(self.places)
        first = self.places[0][0]
        leaves, structure = _parts(first)
        columns = {id(batch): _parts(batch)[0] for batch, _ in self.places}

        def column(k: int) -> Any:
            if not _is_of_samples(leaves[k], first):
                return leaves[k]
            return torch.stack([columns[id(batch)][k][i] for batch, i in self.places])

        merged = [column(k) for k in range(len(leaves))]
        args, kwargs, labels = pytree.tree_unflatten(merged, structure)
        return Batch(args, kwargs, labels, number)


def _parts(batch: Batch) -> tuple[list[Any], Any]:
    found: tuple[list[Any], Any] = pytree.tree_flatten((batch.args, batch.kwargs, batch.labels))
    return found


def _is_of_samples(x: Any, batch: Batch) -> bool:
    return isinstance(x, torch.Tensor) and x.dim() > 0 and x.shape[0] == batch.samples


def _kind(batch: Batch) -> Any:
    """What batches whose samples may meet have in common; None where they may with none."""
    leaves, structure = _parts(batch)
    seen: list[Any] = [repr(structure)]
    for x in leaves:
        if _is_of_samples(x, batch):
            seen.append((x.shape[1:], x.dtype, x.device))
        elif isinstance(x, bool | int | float | str | None):
            seen.append((type(x), x))
        else:
            return None
    return tuple(seen)

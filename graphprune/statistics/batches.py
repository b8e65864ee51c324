"""Read calibration data of any form into a list of batches on the model's device."""

from __future__ import annotations

import inspect
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from itertools import count
from typing import Any

import numpy as np
import torch
from torch import nn
from torch.utils import _pytree as pytree
from torch.utils.data import DataLoader, Dataset

from graphprune.core.batch import Batch
from graphprune.core.errors import GraphPruneError, named_line
from graphprune.statistics.constants import BATCH_SIZE, SAMPLES

UNSEEN = 64
"""Samples beyond those that are held out for a comparison at the end, which no step looks at."""

_SPARED, _ENOUGH = 8, 96  # one sample of so many is held out; fewer in all are scarce, and stay
LABELS = ("labels", "label")
"""Keys of the labels in a batch that is a dict."""


def counted(batch: Batch) -> Batch:
    """The batch with its number of samples: the length of its first tensor."""
    leaves = pytree.tree_leaves((batch.args, batch.kwargs))
    first = next(x for x in leaves if isinstance(x, torch.Tensor) and x.dim())
    return replace(batch, samples=len(first))


def read_batches(data: Any, model: nn.Module, samples: int = SAMPLES) -> list[Batch]:
    """Read calibration data into memory.

    Args:
        data: A tensor of inputs; a pair of tensors, inputs and labels; a data set; or an
            iterable of batches (a `DataLoader`, a list): each a tensor, a dict of keyword
            arguments (labels under `LABELS`), a tuple of positional arguments, or a pair of inputs
            and labels.
        model: Its device, floating-point type and `forward` say how batches are read.
        samples: Stop after this many samples.

    Returns:
        At least one batch, in the order of the data.

    Raises:
        GraphPruneError: There are no batches, one of them is of another kind, or one holds NaN or
            infinity.
    """
    out: list[Batch] = []
    left = samples
    for batch in reading(data, model):
        out.append(batch.head(left))
        left -= batch.samples
        if left <= 0:
            break
    if not out:
        raise GraphPruneError("data: there is not a single batch in it (a generator used before?)")
    return out


def reading(data: Any, model: nn.Module) -> Iterator[Batch]:
    """Read data batch by batch; the arguments are those of `read_batches`.

    Raises:
        GraphPruneError: A batch is of another kind, or holds NaN or infinity.
    """
    arguments = _arguments(model)
    number = 0
    for item in one_by_one(_items(data)):
        batch = _placed(_batch(item, arguments), model)
        if not batch.samples:
            continue
        check_finite(f"data: batch {number}", dict(_named(batch, model)))
        yield batch
        number += 1


def one_by_one(items: Iterable[Any]) -> Iterator[Any]:
    """The batches; whatever the caller's loader trips over is told with the number of the batch.

    Raises:
        GraphPruneError: A batch cannot be read.
    """
    source = iter(items)
    for number in count():
        try:
            item = next(source)
        except StopIteration:
            return
        except GraphPruneError:
            raise
        except Exception as error:
            raise GraphPruneError(
                f"data: batch {number} cannot be read: {named_line(error)}"
            ) from error
        yield item


def held_out(
    batches: Sequence[Batch], wanted: int, captured: int
) -> tuple[list[Batch], list[Batch]]:
    """Part the data in what steps look at and what none of them sees.

    What lies beyond the samples that are wanted is held out, at most `UNSEEN` of them. Where there
    is nothing beyond, the last eighth is, if there is enough to spare.

    Args:
        batches: The data.
        wanted: Samples that steps want.
        captured: Samples in a run of the captured graph, which may take no other number.
    """
    seen, unseen = list(batches), list[Batch]()
    total = sum(batch.samples for batch in batches)
    spare = min(UNSEEN, max(total - wanted, total // _SPARED if total >= _ENOUGH else 0))
    while seen and seen[-1].samples <= spare - sum(batch.samples for batch in unseen):
        unseen.insert(0, seen.pop())
    last = seen[-1] if seen else None
    cut = spare // captured * captured
    if not unseen and last is not None and cut > 0 and last.samples >= _SPARED // 2 * captured:
        rest = last.samples - cut
        seen[-1], unseen = last.part(0, rest), [last.part(rest, last.samples)]
    return seen, unseen


def _named(batch: Batch, model: nn.Module) -> Iterator[tuple[str, Any]]:
    """A batch's arguments with their names in `forward`."""
    names = list(inspect.signature(model.forward).parameters)
    names += [f"argument {number + 1}" for number in range(len(names), len(batch.args))]
    yield from zip(names, batch.args, strict=False)
    yield from batch.kwargs.items()


def check_finite(where: str, inputs: Mapping[str, Any]) -> None:
    """Refuse NaN and infinity, which would spoil every statistic.

    Additive attention masks, of zeros and minus infinity alone, are allowed.

    Args:
        where: What they are, for the error.
        inputs: The arguments by name.

    Raises:
        GraphPruneError: An argument holds NaN or infinity; names it and the place.
    """
    for name, held in inputs.items():
        for x in pytree.tree_leaves(held):
            x = torch.as_tensor(x) if isinstance(x, np.ndarray) and x.dtype.kind == "f" else x
            if not isinstance(x, torch.Tensor) or x.is_meta or not x.is_floating_point():
                continue
            bad = ~torch.isfinite(x)
            if bool(bad.any()) and not bool(((x == 0) | (x == -torch.inf)).all()):
                what = "NaN" if bool(torch.isnan(x).any()) else "infinity"
                place = tuple(int(i) for i in bad.nonzero()[0])
                raise GraphPruneError(
                    f"{where} holds {what} in {name!r} at {place}: leave out or repair that "
                    "sample, as it would spoil every statistic"
                )


def _items(data: Any) -> Iterable[Any]:
    if isinstance(data, np.ndarray):
        data = torch.from_numpy(data)
    if is_array(data) and not data.ndim:
        raise GraphPruneError("data is a single number: pass a tensor with samples first")
    if isinstance(data, torch.Tensor):
        return torch.split(data, BATCH_SIZE)
    if isinstance(data, tuple) and len(data) == 2 and all(is_array(x) and x.ndim for x in data):
        pair = [torch.split(torch.as_tensor(x), BATCH_SIZE) for x in data]
        return zip(*pair, strict=False)
    if isinstance(data, Dataset) and hasattr(data, "__getitem__"):
        return DataLoader(data, batch_size=BATCH_SIZE)
    if isinstance(data, Iterable) and not isinstance(data, str | bytes | Mapping):
        return data
    raise GraphPruneError(
        f"data is a {type(data).__name__}: pass a tensor, a pair (inputs, labels), a DataLoader, "
        "or a list of batches"
    )


def is_array(x: Any) -> bool:
    """Whether calibration data is a tensor or a NumPy array."""
    return isinstance(x, torch.Tensor | np.ndarray)


def _arguments(model: nn.Module) -> int:
    """How many positional arguments `forward` needs."""
    parameters = inspect.signature(model.forward).parameters.values()
    positional = (inspect.Parameter.POSITIONAL_ONLY, inspect.Parameter.POSITIONAL_OR_KEYWORD)
    needed = [p for p in parameters if p.kind in positional and p.default is p.empty]
    return max(len(needed), 1)


def _batch(item: Any, arguments: int) -> Batch:
    if isinstance(item, Batch):
        return item
    if is_array(item):
        return Batch((item,))
    if isinstance(item, Mapping):
        labels = next((item[name] for name in LABELS if name in item), None)
        rest = {str(name): value for name, value in item.items() if name not in LABELS}
        return Batch((), rest, labels)
    if isinstance(item, list | tuple) and item:
        if len(item) == arguments and not _labelled(item, arguments):
            alone = arguments == 1 and not isinstance(item[0], list)
            return _batch(item[0], 1) if alone else Batch(tuple(item))
        if len(item) == arguments + 1 and arguments > 1:
            return Batch(tuple(item[:-1]), {}, item[-1])
        if len(item) == 2:
            given, labels = item
            several = isinstance(given, tuple) or (
                isinstance(given, list) and len(given) == arguments
            )
            whole = tuple(given) if several else (given,) if isinstance(given, list) else None
            batch = Batch(whole) if whole is not None else _batch(given, 1)
            return Batch(batch.args, batch.kwargs, labels)
    size = f" of {len(item)}" if isinstance(item, list | tuple) else ""
    raise GraphPruneError(
        f"data: a batch is a {type(item).__name__}{size}; the model takes {arguments} argument(s): "
        "pass tensors, dicts of keyword arguments, or pairs (inputs, labels)"
    )


def _are_numbers(labels: Any) -> bool:
    rows = isinstance(labels, list | tuple)
    return rows and all(isinstance(x, int | float | list | tuple | np.number) for x in labels)


def _labelled(item: Any, arguments: int) -> bool:
    """Whether a pair is (arguments, labels), of a model that takes two arguments."""
    first = item[0]
    whole = isinstance(first, list | tuple) and len(first) == arguments
    return len(item) == 2 and arguments == 2 and whole and all(map(is_array, first))


def _placed(batch: Batch, model: nn.Module) -> Batch:
    """The batch as tensors on the model's device, floating-point ones in the model's type."""
    weights = next((p for p in model.parameters() if p.is_floating_point()), None)

    def placed(x: Any) -> Any:
        if isinstance(x, np.ndarray):
            x = torch.from_numpy(x)
        if isinstance(x, torch.Tensor) and x.is_meta:
            raise GraphPruneError("data: a tensor on the meta device holds no numbers")
        if not isinstance(x, torch.Tensor) or weights is None:
            return x
        return x.to(weights.device, weights.dtype if x.is_floating_point() else None)

    args, kwargs = pytree.tree_map(placed, (batch.args, batch.kwargs))
    labels = batch.labels
    if is_array(labels) or _are_numbers(labels):
        labels = torch.as_tensor(labels)
        labels = labels.to(weights.device) if weights is not None else labels
    else:  # labels of the caller's own kind: boxes, strings
        labels = pytree.tree_map(placed, labels)
    tensors = [x for x in pytree.tree_leaves((args, kwargs)) if isinstance(x, torch.Tensor)]
    if not tensors or not tensors[0].dim():
        raise GraphPruneError("data: a batch holds no tensor with a first dimension of samples")
    return Batch(args, kwargs, labels, tensors[0].shape[0])


def inputs_of(
    model: nn.Module, batches: list[Batch]
) -> tuple[tuple[Any, ...], dict[str, Any]] | None:
    """Example inputs for the capture: the first two samples, or None where there are no batches."""
    if not batches:
        return None
    first = batches[0].head(2)
    kwargs = dict(first.kwargs)
    names = inspect.signature(model.forward).parameters
    if "use_cache" in names and hasattr(getattr(model, "config", None), "use_cache"):
        kwargs.setdefault("use_cache", False)  # a cache object cannot be captured
    return first.args, kwargs

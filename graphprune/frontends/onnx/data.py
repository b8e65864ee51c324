"""data: calibration data for an ONNX model, by the names of its inputs or in their order."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from typing import Any

import numpy as np
import torch
from onnx import ValueInfoProto, helper

from graphprune.core.batch import Batch
from graphprune.core.errors import GraphPruneError
from graphprune.frontends.onnx.model import Source
from graphprune.frontends.onnx.sizes import is_static
from graphprune.frontends.onnx.tensors import Array, as_array, as_torch
from graphprune.frontends.onnx.whole import results
from graphprune.statistics.batches import LABELS, is_array, one_by_one

_OTHER_KINDS = ({"f", "i"}, {"f", "u"})  # floats and integers: scales or indices, not widths
_FEW = 2  # samples that the analysis takes
_APART = 0.05  # relative; numbers of a byte, whose scale follows from all samples, differ by less


def read_data(source: Source, data: Any, samples: int) -> list[Batch]:
    """Read calibration data.

    Args:
        source: The model.
        data: An array of inputs, a dict of arrays by input name, a tuple of arrays in the order of
            the inputs (labels may stand behind them), or an iterable of any of these.
        samples: Stop after that many samples.

    Returns:
        At least one batch; its arguments are in the order of the model's inputs.

    Raises:
        GraphPruneError: There is no data, or it does not name or fill the inputs.
    """
    inputs = source.inputs
    out: list[Batch] = []
    seen = 0
    for number, item in enumerate(one_by_one(_items(data, len(inputs)))):
        batch = _batch(inputs, item, number)
        if not batch.samples:
            continue
        out.append(batch)
        seen += batch.samples
        if seen >= samples:
            break
    if not out:
        raise GraphPruneError("data: there is not a single batch in it (a generator used before?)")
    return out


def _items(data: Any, inputs: int) -> Iterator[Any]:
    whole = isinstance(data, Mapping) or is_array(data)
    if isinstance(data, tuple) and len(data) in (inputs, inputs + 1):
        whole = whole or all(is_array(x) for x in data)
    if whole:
        yield data
    elif isinstance(data, Iterable) and not isinstance(data, str | bytes):
        yield from data
    else:
        raise GraphPruneError(
            f"data is a {type(data).__name__}: pass an array, a dict of arrays by input name, or "
            "an iterable of them"
        )


def _batch(inputs: list[ValueInfoProto], item: Any, number: int) -> Batch:
    names = [entry.name for entry in inputs]
    labels = item.labels if isinstance(item, Batch) else None
    if isinstance(item, Batch):  # read before
        given = list(item.args)
    elif isinstance(item, Mapping):
        labels = next((item[name] for name in LABELS if name in item), None)
        given = [item[name] for name in names if name in item]
        if not given:  # files of arrays without names: their order counts
            given = [x for name, x in item.items() if name not in LABELS]
    else:
        given = list(item) if isinstance(item, list | tuple) else [item]
    if len(given) == len(names) + 1:
        labels = given.pop()
    arrays = [as_array(x) if isinstance(x, torch.Tensor) else np.asarray(x) for x in given]
    if len(arrays) != len(names):
        raise GraphPruneError(
            f"data: item {number} holds {len(arrays)} arrays; the model takes {names}"
        )
    tensors = [as_torch(array) for array in arrays]
    if any(x is None or not x.dim() for x in tensors[:1]) or any(x is None for x in tensors):
        raise GraphPruneError(f"data: item {number} holds what is no array of numbers")
    for entry, array in zip(inputs, arrays, strict=True):
        _check(entry, array, number)
    return Batch(tuple(tensors), {}, labels, len(arrays[0]))


def _check(item: ValueInfoProto, array: Array, number: int) -> None:
    """Kind and lengths behind the first must be those that the model states."""
    kind = item.type.tensor_type.elem_type
    takes = (
        helper.tensor_dtype_to_np_dtype(kind) if kind in helper.get_all_tensor_dtypes() else None
    )
    if takes is not None and {takes.kind, array.dtype.kind} in _OTHER_KINDS:
        raise GraphPruneError(
            f"data: item {number} holds {array.dtype} for input {item.name}, which takes {takes}: "
            "convert it as the training code does, such as x.astype('float32') / 255"
        )
    dims = item.type.tensor_type.shape.dim
    wanted = [dim.dim_value if is_static(dim) else dim.dim_param or "?" for dim in dims]
    pairs = zip(wanted[1:], array.shape[1:], strict=False)
    if array.ndim != len(wanted) or any(w != s for w, s in pairs if isinstance(w, int)):
        shape = ", ".join(map(str, wanted))
        raise GraphPruneError(
            f"data: item {number} has the shape {array.shape} for input {item.name}, which takes "
            f"({shape})"
        )


def examples_of(source: Source, batches: list[Batch]) -> dict[str, Array]:
    """Example inputs from data.

    They are as many samples as the model takes, two where any number does; all of the first item
    where what stands first are no samples, but moments of a recording, say.
    """
    whole: dict[str, Array] = {}
    free = False
    for item, tensor in zip(source.inputs, batches[0].args, strict=True):
        dims = item.type.tensor_type.shape.dim
        array = as_array(tensor)
        whole[item.name] = array
        if len(dims) == array.ndim and array.ndim:
            if is_static(dims[0]):
                whole[item.name] = np.resize(array, (dims[0].dim_value, *array.shape[1:]))
            else:
                free = True
    if not free or not _sampled(source, whole):
        return whole
    free_ones = {item.name for item in source.inputs if _is_free(item)}
    return {
        name: np.resize(array, (_FEW, *array.shape[1:])) if name in free_ones else array
        for name, array in whole.items()
    }


def _is_free(item: ValueInfoProto) -> bool:
    dims = item.type.tensor_type.shape.dim
    return len(dims) > 0 and not is_static(dims[0])


def _sampled(source: Source, whole: Mapping[str, Array]) -> bool:
    """Whether what stands first in the inputs are samples: each by itself, in any order.

    Where the model does not run, that is taken for granted.
    """
    free = [item.name for item in source.inputs if _is_free(item)]
    number = len(whole[free[0]])
    if number <= _FEW or any(len(whole[name]) != number for name in free):
        return True
    found = results(source, whole)
    if found is None:
        return True
    for order in (np.arange(number)[::-1], np.arange(_FEW)):
        given = {name: x[order] if name in free else x for name, x in whole.items()}
        again = results(source, given)
        if again is None:
            return False
        for name, item in found.items():
            same = isinstance(item, np.ndarray) and item.shape[:1] == (number,)
            if not same or _far(item[order], again[name]):
                return False
    return True


def _far(expected: Array, found: Array) -> bool:
    """Whether results differ by more than the rounding of bytes explains."""
    if expected.dtype.kind != "f" or expected.shape != found.shape:
        return expected.shape != found.shape
    gap = np.abs(expected.astype(float) - found.astype(float)).mean()
    return bool(gap > _APART * (np.abs(expected.astype(float)).mean() + 1e-12))

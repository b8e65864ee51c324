"""Results that are no tensors of numbers: text, sequences, maps, what is left out.

In a run of the neutral graph an integer tensor stands for each: two are equal where the results
are. The result itself hangs on it, for the operations that read it.
"""

from __future__ import annotations

import hashlib
from typing import Any

import numpy as np
import torch
from onnx import TypeProto, helper

from graphprune.engine.tensors import difference
from graphprune.frontends.onnx.tensors import Array, as_array, as_torch

_DIGITS = 5  # significant, of numbers inside a sequence or a map
_HELD = "held"
_TEXT = "OSU"  # kinds of NumPy types that hold text


def as_value(item: Any) -> torch.Tensor:
    """A result as a tensor, or as one that stands for it: element by element where it is text."""
    if isinstance(item, np.ndarray | np.generic):
        array = np.asarray(item)
        found = None if array.dtype.kind in _TEXT else as_torch(array)
        if found is not None:
            return found
        digests = [_digest(element) for element in array.ravel().tolist()]
        found = torch.tensor(digests, dtype=torch.int64).reshape(array.shape)
    else:
        found = torch.tensor(_digest(item), dtype=torch.int64)
    setattr(found, _HELD, item)
    return found


def as_fed(tensor: torch.Tensor) -> Any:
    """The reverse of `as_value`."""
    return getattr(tensor, _HELD, None) if hasattr(tensor, _HELD) else as_array(tensor)


def _digest(item: Any) -> int:
    """A number that stands for an object."""
    data = hashlib.blake2b(_text(item).encode(errors="replace"), digest_size=7).digest()
    return int.from_bytes(data, "big")


def _text(item: Any) -> str:
    if isinstance(item, dict):
        return repr([(_text(key), _text(item[key])) for key in sorted(item, key=repr)])
    if isinstance(item, list | tuple):
        return repr([_text(element) for element in item])
    if isinstance(item, np.ndarray):
        return repr(item.shape) + _text(item.ravel().tolist())
    if isinstance(item, float | np.floating):
        return f"{float(item):.{_DIGITS}g}"
    return repr(item)


def apart(expected: Any, found: Any) -> float:
    """The largest difference of two results, relative to the largest number.

    Infinite where they differ in anything else.
    """
    if isinstance(expected, dict) and isinstance(found, dict):
        if expected.keys() != found.keys():
            return float("inf")
        return _widest([expected[key] for key in expected], [found[key] for key in expected])
    if isinstance(expected, list | tuple) and isinstance(found, list | tuple):
        return _widest(expected, found)
    if isinstance(expected, str | bytes | None) or isinstance(found, str | bytes | None):
        return 0.0 if expected == found else float("inf")
    first, second = np.asarray(expected), np.asarray(found)
    if first.dtype.kind in _TEXT or second.dtype.kind in _TEXT:
        return 0.0 if np.array_equal(first, second) else float("inf")
    a, b = as_torch(first), as_torch(second)
    if a is None or b is None:
        return 0.0 if np.array_equal(first, second) else float("inf")
    if a.is_floating_point():
        return difference(a.double(), b.double())
    return difference(a, b.to(a.dtype))


def _widest(expected: Any, found: Any) -> float:
    """Over all elements; numbers among them are compared as one tensor."""
    if len(expected) != len(found):
        return float("inf")
    if all(isinstance(item, float | int | np.number) for item in (*expected, *found)):
        return apart(np.asarray(expected, np.float64), np.asarray(found, np.float64))
    return max((apart(a, b) for a, b in zip(expected, found, strict=True)), default=0.0)


def type_of(item: Any) -> TypeProto:
    """The ONNX type of a result."""
    if isinstance(item, np.ndarray | np.generic):
        array = np.asarray(item)
        return helper.make_tensor_type_proto(kind_of(array), array.shape)
    if isinstance(item, list | tuple):
        first = type_of(item[0]) if len(item) else helper.make_tensor_type_proto(1, None)
        if first.HasField("tensor_type"):
            first = helper.make_tensor_type_proto(first.tensor_type.elem_type, None)
        return helper.make_sequence_type_proto(first)
    if isinstance(item, dict):
        return _type_of_map(item)
    return helper.make_optional_type_proto(helper.make_tensor_type_proto(1, None))


def _type_of_map(item: dict[Any, Any]) -> TypeProto:
    key, value = next(iter(item.items()), (0, 0.0))
    kind = kind_of(np.asarray(key))
    single = np.float32 if isinstance(value, float) else None
    values = helper.make_tensor_type_proto(kind_of(np.asarray(value, single)), [])
    return helper.make_map_type_proto(kind, values)


def kind_of(array: Array) -> int:
    """The ONNX element type of an array, text among them."""
    if array.dtype.kind in _TEXT:
        return int(helper.np_dtype_to_tensor_dtype(np.dtype(object)))
    return int(helper.np_dtype_to_tensor_dtype(array.dtype))

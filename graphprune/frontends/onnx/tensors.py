"""The tensors of a file as torch tensors, without a copy where memory can be shared."""

from __future__ import annotations

import warnings
from math import prod
from pathlib import Path
from typing import Any, TypeAlias

import ml_dtypes
import numpy as np
import numpy.typing as npt
import onnx
import torch
from onnx import TensorProto

from graphprune.core.errors import LiftError, first_line

Array: TypeAlias = npt.NDArray[Any]

FLOATS = {
    TensorProto.FLOAT: torch.float32,
    TensorProto.DOUBLE: torch.float64,
    TensorProto.FLOAT16: torch.float16,
    TensorProto.BFLOAT16: torch.bfloat16,
}
INTEGERS = (TensorProto.INT32, TensorProto.INT64, TensorProto.BOOL)
_BITS = {"INT4": 4, "UINT4": 4, "FLOAT4E2M1": 4, "INT2": 2, "UINT2": 2}
PACKED = {n: _BITS[name] for name, n in TensorProto.DataType.items() if name in _BITS}
"""Types of which several numbers share a byte, and their bits."""
_EIGHT = {
    "float8_e4m3fn": torch.float8_e4m3fn,
    "float8_e4m3fnuz": torch.float8_e4m3fnuz,
    "float8_e5m2": torch.float8_e5m2,
    "float8_e5m2fnuz": torch.float8_e5m2fnuz,
}
_WIDER: dict[str, Any] = {
    "int4": np.int8, "uint4": np.uint8, "int2": np.int8, "uint2": np.uint8,
    **dict.fromkeys(_EIGHT, np.float32),
}  # fmt: skip
_EXTERNAL = TensorProto.EXTERNAL


def wider(kind: str) -> Any:
    """The type that stands for a type that no runtime takes from NumPy; None for any other.

    Args:
        kind: The type, by its name.
    """
    return _WIDER.get(kind)


def narrowed(array: Array, kind: str) -> Array:
    """Numbers in a type that NumPy lacks."""
    return array.astype(getattr(ml_dtypes, kind))


def packed_size(elem_type: int, count: int) -> int:
    """Bytes of so many elements of a type of which several share a byte."""
    return -(-count * PACKED[elem_type] // 8)


def is_float(elem_type: int) -> bool:
    """Whether an ONNX element type is one of floating point that torch can compute in."""
    return elem_type in FLOATS


def dtype_name(elem_type: int) -> str:
    """`float32` for `TensorProto.FLOAT`."""
    try:
        name = str(np.dtype(onnx.helper.tensor_dtype_to_np_dtype(elem_type)).name)
    except KeyError:
        return "unknown"
    return {"object": "string"}.get(name, name)


def read(proto: TensorProto, folder: Path | None = None) -> Array:
    """A tensor's elements.

    Args:
        proto: The tensor.
        folder: Where external data lies; those are mapped, not read.

    Raises:
        LiftError: The data is missing, too short, or of a type that cannot be read.
    """
    try:
        if proto.data_location == _EXTERNAL:
            return _mapped(proto, folder)
        return onnx.numpy_helper.to_array(proto)
    except (ValueError, TypeError, KeyError, OSError) as error:
        raise LiftError(f"cannot read tensor {proto.name}: {first_line(error)}") from error


def _mapped(proto: TensorProto, folder: Path | None) -> Array:
    entries = {entry.key: entry.value for entry in proto.external_data}
    where = external_path(entries.get("location", ""), folder)
    dtype = onnx.helper.tensor_dtype_to_np_dtype(proto.data_type)
    offset, count = int(entries.get("offset", 0)), prod(proto.dims)
    if not count:
        return np.zeros(proto.dims, dtype)
    if proto.data_type in PACKED:
        inline = TensorProto(data_type=proto.data_type, dims=proto.dims)
        with where.open("rb") as file:
            file.seek(offset)
            inline.raw_data = file.read(packed_size(proto.data_type, count))
        return onnx.numpy_helper.to_array(inline)
    # Copy on write: torch takes only writable memory, and nothing here writes.
    return np.memmap(where, dtype, "c", offset, tuple(proto.dims))


def external_path(location: str, folder: Path | None) -> Path:
    """The file that holds external data.

    Raises:
        LiftError: It does not exist, or lies outside the model's folder.
    """
    if folder is None:
        raise LiftError(
            f"external data {location!r} cannot be found for a model that is not a file: pass its "
            "path"
        )
    path = (folder / location).resolve()
    if not path.is_relative_to(folder.resolve()):
        raise LiftError(f"external data {location!r} lies outside the model's folder")
    if not location or not path.is_file():
        raise LiftError(
            f"external data {location!r} is missing: that file belongs beside the model, in "
            f"{folder.resolve()}"
        )
    return path


def as_torch(array: Array) -> torch.Tensor | None:
    """An array as a tensor on the same memory; None where torch has no such type."""
    array = np.asarray(array)
    if not array.flags.c_contiguous:
        array = np.ascontiguousarray(array)
    if array.dtype == ml_dtypes.bfloat16:
        return _shared(array.view(np.int16)).view(torch.bfloat16)
    if array.dtype.name in _EIGHT:
        return _shared(array.view(np.uint8)).view(_EIGHT[array.dtype.name])
    if (kind := wider(array.dtype.name)) is not None:
        array = array.astype(kind)
    try:
        return _shared(array)
    except TypeError:
        return None


def _shared(array: Array) -> torch.Tensor:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # read-only memory is fine: nothing writes to it
        return torch.from_numpy(array)


def as_array(tensor: torch.Tensor) -> Array:
    """The reverse of `as_torch`."""
    tensor = tensor.detach()
    if tensor.dtype == torch.bfloat16:
        return tensor.contiguous().view(torch.int16).numpy().view(ml_dtypes.bfloat16)
    eight = next((name for name, kind in _EIGHT.items() if kind == tensor.dtype), None)
    if eight is not None:
        return tensor.contiguous().view(torch.uint8).numpy().view(getattr(ml_dtypes, eight))
    return tensor.numpy()


def to_proto(array: Array, name: str, elem_type: int) -> TensorProto:
    """An array as a tensor of a file."""
    if elem_type in PACKED:
        kind = onnx.helper.tensor_dtype_to_np_dtype(elem_type)
        return onnx.numpy_helper.from_array(array.astype(kind), name)
    proto = TensorProto(name=name, data_type=elem_type, dims=array.shape)
    proto.raw_data = np.ascontiguousarray(array).tobytes()
    return proto

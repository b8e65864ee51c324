"""Parsing a file without the data of its large tensors, which stays where it is.

A parser copies all of a file. Here the bytes are walked first (Protocol Buffers' wire format,
https://protobuf.dev/programming-guides/encoding), and the data of large initializers is left out:
the entries say that it lies in `ITSELF`.
"""

from __future__ import annotations

import mmap
from collections.abc import Iterator
from math import prod
from pathlib import Path
from typing import TypeAlias

import numpy as np
import onnx
from google.protobuf.message import DecodeError
from onnx import TensorProto

from graphprune.core.errors import LiftError
from graphprune.frontends.onnx.tensors import FLOATS, INTEGERS, Array, read

ITSELF = "\0"
"""Location of data that stayed in the model's own file: no file can be called so."""

LARGE = 1 << 20  # bytes, from which on a tensor's data is left in the file

Field: TypeAlias = "tuple[int, int, int, int]"
"""Number of a field, where it starts, where its content starts, and where it ends."""

Piece: TypeAlias = "bytes | memoryview"

_GRAPH, _INITIALIZER, _RAW_DATA = 7, 5, 9  # in ModelProto, GraphProto and TensorProto
_VARINT, _FIXED64, _BYTES, _FIXED32 = 0, 1, 2, 5  # wire types


def is_inside(proto: TensorProto) -> bool:
    """Whether a tensor's data stayed in the model's own file."""
    return any(entry.value == ITSELF for entry in proto.external_data)


class OwnFile:
    """The file that a model was read from, in which the data of large tensors stays.

    Attributes:
        path: Where it is.

    Raises:
        LiftError: It cannot be read.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self._state = self._look()

    @property
    def size(self) -> int:
        """Its bytes."""
        return self._state[0]

    def slim(self) -> bytes:
        """Its bytes without the data of large tensors."""
        if not self._state[0]:
            return b""
        try:
            with self.path.open("rb") as file:
                return slim(memoryview(mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)))
        except OSError as error:
            raise LiftError(f"cannot read {self.path}: {error.strerror}") from error

    def check(self) -> None:
        """See that it is the file that was read.

        Raises:
            LiftError: It is another one now.
        """
        if self._look() != self._state:
            raise LiftError(f"{self.path} has changed since it was read")

    def read(self, proto: TensorProto) -> Array:
        """The elements of a tensor whose data stayed here; see `check`."""
        where = {e.key: int(e.value) for e in proto.external_data if e.value != ITSELF}
        if proto.data_type in FLOATS or proto.data_type in INTEGERS:
            dtype = np.dtype(onnx.helper.tensor_dtype_to_np_dtype(proto.data_type))
            if where["length"] == prod(proto.dims) * dtype.itemsize:
                found: Array = np.fromfile(
                    self.path, dtype, offset=where["offset"], count=prod(proto.dims)
                )
                return found.reshape(tuple(proto.dims))
        inline = TensorProto(name=proto.name, data_type=proto.data_type, dims=proto.dims)
        with self.path.open("rb") as file:
            file.seek(where["offset"])
            inline.raw_data = file.read(where["length"])
        return read(inline)

    def _look(self) -> tuple[int, ...]:
        try:
            found = self.path.stat()
        except OSError as error:
            raise LiftError(f"cannot read {self.path}: {error.strerror}") from error
        return found.st_size, found.st_mtime_ns, found.st_ino


def slim(data: memoryview) -> bytes:
    """The bytes of a ModelProto without the data of its large initializers.

    Args:
        data: The bytes of a file.

    Raises:
        DecodeError: They are no protobuf.
    """
    parts: list[Piece] = []
    for number, start, inside, end in _fields(data, 0, len(data)):
        if number == _GRAPH:
            parts += _nested(number, _slim_graph(data, inside, end))
        else:
            parts.append(data[start:end])
    return b"".join(parts)


def _slim_graph(data: memoryview, start: int, stop: int) -> list[Piece]:
    parts: list[Piece] = []
    kept = start
    for number, begin, inside, end in _fields(data, start, stop):
        if number == _INITIALIZER and end - inside >= LARGE:
            parts += [data[kept:begin], *_nested(number, _moved(data, inside, end))]
            kept = end
    return [*parts, data[kept:stop]]


def _moved(data: memoryview, start: int, stop: int) -> list[Piece]:
    """A tensor whose entry points to the data."""
    parts: list[Piece] = []
    for number, begin, inside, end in _fields(data, start, stop):
        if number != _RAW_DATA or end - inside < LARGE:
            parts.append(data[begin:end])
            continue
        where = TensorProto(data_location=TensorProto.EXTERNAL)
        entries = {"location": ITSELF, "offset": inside, "length": end - inside}
        for key, value in entries.items():
            where.external_data.add(key=key, value=str(value))
        parts.append(where.SerializeToString())
    return parts


def _nested(number: int, parts: list[Piece]) -> list[Piece]:
    """A message inside another."""
    size = sum(map(len, parts))
    return [_varint(number << 3 | _BYTES), _varint(size), *parts]


def _fields(data: memoryview, start: int, stop: int) -> Iterator[Field]:
    at = start
    while at < stop:
        begin = at
        tag, at = _number(data, at, stop)
        kind = tag & 7
        inside = at
        if kind == _VARINT:
            _, at = _number(data, at, stop)
        elif kind == _BYTES:
            size, inside = _number(data, at, stop)
            at = inside + size
        elif kind in (_FIXED64, _FIXED32):
            at += 8 if kind == _FIXED64 else 4
        else:
            raise DecodeError(f"wire type {kind}")
        if at > stop:
            raise DecodeError("a field is longer than the message")
        yield tag >> 3, begin, inside, at


def _number(data: memoryview, at: int, stop: int) -> tuple[int, int]:
    """A variable-length integer, and where the next byte is."""
    found = shift = 0
    while at < stop and shift < 64:
        byte = data[at]
        at += 1
        found |= (byte & 0x7F) << shift
        if byte < 0x80:
            return found, at
        shift += 7
    raise DecodeError("a number has no end")


def _varint(number: int) -> bytes:
    out = bytearray()
    while number > 0x7F:
        out.append(number & 0x7F | 0x80)
        number >>= 7
    out.append(number)
    return bytes(out)

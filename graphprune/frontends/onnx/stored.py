"""The smaller model: a frame, and tensors that are read when they are written."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from math import prod
from typing import Any

import numpy as np
from onnx import ModelProto, TensorProto, helper, numpy_helper

from graphprune.core.cuts import Kept
from graphprune.core.errors import LiftError
from graphprune.core.graph import Value
from graphprune.frontends.onnx.tensors import PACKED, Array, packed_size, to_proto

LARGEST = 2**31 - 2**20  # bytes of a protobuf, with some room for names


@dataclass(frozen=True)
class Stored:
    """A tensor of the result, read when it is written.

    Attributes:
        name: Its name.
        elem_type: ONNX element type.
        shape: Its shape.
        read: Gives the elements.
        proto: The tensor as it was, where nothing changes.
        external: Whether its data stood in a file of its own.
    """

    name: str
    elem_type: int
    shape: tuple[int, ...]
    read: Callable[[], Array]
    proto: TensorProto | None = None
    external: bool = False

    @property
    def size(self) -> int:
        """Its bytes."""
        kind = helper.tensor_dtype_to_np_dtype(self.elem_type)
        if self.elem_type in PACKED:
            return packed_size(self.elem_type, prod(self.shape))
        return prod(self.shape) * max(int(np.dtype(kind).itemsize), 1)

    def weight(self) -> int:
        """Bytes of its protobuf."""
        if self.proto is not None and self.proto.data_location != TensorProto.EXTERNAL:
            return int(self.proto.ByteSize())
        head = TensorProto(name=self.name, data_type=self.elem_type, dims=self.shape)
        return int(head.ByteSize()) + _field(self.size)

    def as_proto(self) -> TensorProto:
        """The tensor with its data inside."""
        if self.proto is not None and self.proto.data_location != TensorProto.EXTERNAL:
            return self.proto
        return to_proto(self.read(), self.name, self.elem_type)


@dataclass
class Lowered:
    """The smaller model.

    Attributes:
        frame: The model without its initializers.
        tensors: The initializers.
        edits: Attributes and arguments with new values.
        replaced: Nothing: no code stands behind a file.
        folded: Nothing: a file's softmax scales are numbers of their own.
        names: Of the tensors that were written anew, by weight.
    """

    frame: ModelProto
    tensors: list[Stored] = field(default_factory=list)
    edits: dict[str, Any] = field(default_factory=dict)
    replaced: dict[str, str] = field(default_factory=dict)
    folded: list[str] = field(default_factory=list)
    names: dict[Value, str] = field(default_factory=dict)

    def written(self, value: Value) -> Array | None:
        """The elements that were written for a weight; None where it stays as it was."""
        name = self.names.get(value)
        for tensor in self.tensors:
            if tensor.name == name:
                return tensor.read()
        for node in self.frame.graph.node:
            if name is not None and node.op_type == "Constant" and node.output[0] == name:
                array: Array = numpy_helper.to_array(node.attribute[0].t)
                return array
        return None

    def size(self) -> int:
        """Bytes of the initializers."""
        return sum(tensor.size for tensor in self.tensors)

    def weight(self) -> int:
        """Bytes of the model as one protobuf, without making it."""
        frame = self.frame.graph.ByteSize()
        graph = frame + sum(_field(tensor.weight()) for tensor in self.tensors)
        return int(self.frame.ByteSize()) - _field(frame) + _field(graph)

    def proto(self) -> ModelProto:
        """The model as one protobuf.

        Raises:
            LiftError: It is larger than the 2 GB that a protobuf can hold.
        """
        if self.weight() >= LARGEST:
            raise LiftError(
                f"the smaller model holds {self.weight() / 1e9:.1f} GB, more than a protobuf can; "
                "write it to a file: plan.write('small.onnx')"
            )
        out = ModelProto()
        out.CopyFrom(self.frame)
        out.graph.initializer.extend(tensor.as_proto() for tensor in self.tensors)
        return out


def _field(size: int) -> int:
    """Bytes of a field that holds so many: its tag, their number, and they themselves."""
    return 1 + max(1, -(-size.bit_length() // 7)) + size


def cut_array(array: Array, kept: Kept) -> Array:
    """The slices of an array at the kept positions of each dimension (None: all)."""
    for dim, indices in enumerate(kept):
        if indices is not None:
            array = np.take(array, indices, axis=dim)
    return array

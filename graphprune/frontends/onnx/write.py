"""write: the smaller model as a file, tensor by tensor.

A model whose weights were external data, or that is larger than a protobuf can be, gets its
weights in a file of their own beside it: no more than one of them is in memory at a time.
"""

from __future__ import annotations

from pathlib import Path
from typing import BinaryIO

import numpy as np
from onnx import ModelProto, TensorProto

from graphprune.core.files import check_target, replacing, write_whole
from graphprune.frontends.onnx.stored import LARGEST, Lowered, Stored
from graphprune.frontends.onnx.tensors import PACKED

_SMALL = 1024  # bytes; shorter tensors stay in the model's own file
_PAGE = 4096  # data of many pages starts at multiples of this, so that it can be mapped
_PAGES = 16  # so many: less than a 16th more bytes are filled up with
_WORD = 16  # shorter data starts at multiples of this


def write(lowered: Lowered, path: Path) -> int:
    """Write a model; whatever happens, the old file or the new one is there.

    Returns:
        Bytes written.

    Raises:
        GraphPruneError: The file cannot be written.
    """
    external = any(tensor.external for tensor in lowered.tensors)
    if not external and lowered.weight() < LARGEST:
        data = lowered.proto().SerializeToString()
        write_whole(path, data)
        return len(data)
    out = ModelProto()
    out.CopyFrom(lowered.frame)
    beside = check_target(path.with_name(f"{path.name}.data"))
    with replacing(beside) as file:
        for tensor in lowered.tensors:
            if tensor.size < _SMALL or tensor.elem_type == TensorProto.STRING:
                out.graph.initializer.append(tensor.as_proto())
            else:
                out.graph.initializer.append(_placed(tensor, file, beside.name))
        file.flush()
        data = out.SerializeToString()
        write_whole(path, data)
        return len(data) + file.tell()


def _placed(tensor: Stored, file: BinaryIO, location: str) -> TensorProto:
    """Write a tensor's data; the entry that says where it lies."""
    file.write(bytes(-file.tell() % (_PAGE if tensor.size >= _PAGES * _PAGE else _WORD)))
    start = file.tell()
    if tensor.elem_type in PACKED:
        file.write(tensor.as_proto().raw_data)
    else:
        array = np.ascontiguousarray(tensor.read())
        file.write(array.reshape(-1).view(np.uint8).data)
    proto = TensorProto(name=tensor.name, data_type=tensor.elem_type, dims=tensor.shape)
    proto.data_location = TensorProto.EXTERNAL
    for key, value in (
        ("location", location),
        ("offset", str(start)),
        ("length", str(file.tell() - start)),
    ):
        proto.external_data.add(key=key, value=value)
    return proto

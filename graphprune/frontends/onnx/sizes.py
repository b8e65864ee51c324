"""Concrete sizes for dynamic dimensions: two sets of them, so that what is dynamic shows."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any, TypeAlias

import numpy as np
from onnx import TensorProto, TypeProto, helper

from graphprune.core.errors import LiftError
from graphprune.frontends.onnx.fixed import settled
from graphprune.frontends.onnx.model import Source
from graphprune.frontends.onnx.tensors import Array, is_float
from graphprune.frontends.onnx.trace import Misfit, Trace, static_shape, tensor_type, walk

Key: TypeAlias = "str | tuple[str, int]"  # a named dimension, or an input and a place in it
Types: TypeAlias = dict[str, TypeProto]

_BATCH = (2, 3)
_FIRST = ((1, 1), (64, 96))  # instead, where that does not do: one sample; moments in time
# Tried in this order: pairs of (first, second) sizes for images, sequences and channels.
_IMAGES = ((64, 96), (224, 256), (320, 352), (32, 64), (224, 256), (64, 96))
_SEQUENCES = ((16, 24), (16, 24), (512, 768), (16000, 20480), (128, 256), (77, 93))
_CHANNELS = (3, 3, 1, 1, 1, 3)
COLOURS = 4
"""Most channels of a picture."""

# Tried behind these, of images whose size the weights fix (a layer behind a flattened map).
_EXACT = (28, 32, 48, 96, 112, 128, 160, 192, 256, 299, 300, 320, 384, 416, 448, 512, 640)


@dataclass
class Traces:
    """A model walked at two sets of sizes (twice the same one where nothing is dynamic).

    Attributes:
        inputs: Types of the inputs at each.
        first: What is known at the first: the one that the analysis sees.
        second: What is known at the second.
    """

    inputs: tuple[Types, Types]
    first: Trace
    second: Trace

    def steady(self, name: str) -> Any:
        """Which entries of a known value are the same at both sizes, as a mask."""
        a, b = self.first.known[name], self.second.known.get(name)
        return a == b if b is not None and a.shape == b.shape else np.zeros(a.shape, bool)

    def fixed(self, name: str) -> bool:
        """Whether a known value is the same at both sizes."""
        a, b = self.first.known.get(name), self.second.known.get(name)
        return a is not None and b is not None and a.shape == b.shape and bool((a == b).all())


def choose(source: Source, given: Mapping[str, Array], hints: Mapping[str, TypeProto]) -> Traces:
    """Find sizes that the model accepts.

    Args:
        source: The model.
        given: Example inputs; their sizes are used where given.
        hints: Types known from elsewhere.

    Raises:
        LiftError: The model accepts none of the sizes tried, or is inconsistent.
    """
    reason = ""
    for first, second in _attempts(source, given):
        try:
            a = walk(source, first, hints)
        except Misfit as error:
            reason = reason or str(error)
            continue
        if first == second:
            return Traces((first, second), a, a)
        try:
            return Traces((first, second), a, walk(source, second, {}))
        except Misfit:
            return Traces((first, first), a, a)
    shapes = (
        ""
        if given or not is_open(source)
        else (
            "; pass example inputs of sizes that it accepts: example_inputs={'"
            + source.inputs[0].name
            + "': array}"
        )
    )
    raise LiftError(f"{source.label} is inconsistent: {reason}{shapes}")


def is_static(dim: Any) -> bool:
    """Whether a dimension's length is stated; some exporters write -1 for those that vary."""
    return bool(dim.HasField("dim_value") and dim.dim_value > 0)


def is_open(source: Source) -> bool:
    """Whether an input leaves a length open."""
    return any(
        not is_static(dim) for item in source.inputs for dim in item.type.tensor_type.shape.dim
    )


def _attempts(source: Source, given: Mapping[str, Array]) -> Iterator[tuple[Types, Types]]:
    known = settled(source) if is_open(source) else {}
    for number in range(len(_IMAGES) + len(_EXACT) + len(_FIRST) if is_open(source) else 1):
        sizes = _sizes(source, given, number, known)
        yield tuple(  # type: ignore[misc]
            {
                item.name: tensor_type(
                    item.type.tensor_type.elem_type,
                    [
                        dim.dim_value if is_static(dim) else sizes[_key(item, at)][which]
                        for at, dim in enumerate(item.type.tensor_type.shape.dim)
                    ]
                    if item.name not in given or which
                    else given[item.name].shape,
                )
                for item in source.inputs
            }
            for which in (0, 1)
        )


def _key(item: object, at: int) -> Key:
    dim = item.type.tensor_type.shape.dim[at]  # type: ignore[attr-defined]
    return dim.dim_param or (item.name, at)  # type: ignore[attr-defined]


def _sizes(
    source: Source, given: Mapping[str, Array], number: int, known: Mapping[tuple[str, int], int]
) -> dict[Key, tuple[int, int]]:
    out: dict[Key, tuple[int, int]] = {}
    for (name, at), length in known.items():
        item = next(item for item in source.inputs if item.name == name)
        if not is_static(item.type.tensor_type.shape.dim[at]):
            out[_key(item, at)] = (length, length)
    for item in source.inputs:
        dims = item.type.tensor_type.shape.dim
        for at, dim in enumerate(dims):
            if is_static(dim):
                continue
            inner = [place for name, place in known if name == item.name]
            last = is_static(dims[-1]) and dims[-1].dim_value <= COLOURS
            channels = inner[0] if inner else len(dims) - 1 if last else 1
            size = _guess(at, len(dims), _key(item, at), number, channels)
            if item.name in given and given[item.name].ndim == len(dims):
                length = given[item.name].shape[at]
                size = (length, length + (1 if at == 0 else max(length // 2 // 32 * 32, 0)))
            out.setdefault(_key(item, at), size)
    return out


def _guess(at: int, rank: int, key: Key, number: int, channel: int) -> tuple[int, int]:
    """Sizes of a dimension in one of the attempts.

    Args:
        at: The dimension.
        rank: Dimensions of the input.
        key: Its name.
        number: Of the attempt; the last are the first again with other lengths in front.
        channel: The dimension of the channels.
    """
    batch, others = _BATCH, number - len(_IMAGES) - len(_EXACT)
    if others >= 0:
        batch, number = _FIRST[others], 0
    if at == 0 or (isinstance(key, str) and "batch" in key.lower()):
        return batch
    if number >= len(_IMAGES):
        exact = _EXACT[number - len(_IMAGES)]
        return (_CHANNELS[0],) * 2 if rank >= 4 and at == channel else (exact, exact)
    if rank >= 4:
        colours = _CHANNELS[number]
        return (colours, colours) if at == channel else _IMAGES[number]
    return _SEQUENCES[number]


def inputs_for(types: Types, examples: Mapping[str, Array], seed: int) -> dict[str, Array]:
    """Random inputs of the given types, or the caller's examples where their shapes fit.

    Numbers are normal; integers are zeros and ones, which any table of embeddings holds.
    """
    rng = np.random.default_rng(seed)
    out = {}
    for name, type_ in types.items():
        shape = static_shape(type_)
        assert shape is not None
        elem_type = type_.tensor_type.elem_type
        dtype = helper.tensor_dtype_to_np_dtype(elem_type)
        if elem_type == TensorProto.STRING:
            raise LiftError(f"input {name} is text, which is not supported")
        example = examples.get(name)
        if example is not None and example.shape == shape:
            out[name] = example.astype(dtype)
        elif is_float(elem_type):
            out[name] = rng.standard_normal(shape).astype(dtype)
        else:
            out[name] = rng.integers(0, 2, shape).astype(dtype)
    return out

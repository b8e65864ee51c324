"""Concrete sizes for dynamic dimensions: two sets of them, so that what is dynamic shows."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass
from functools import partial
from math import prod
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
Pair: TypeAlias = tuple[int, int]  # the first size and the second
_Guess: TypeAlias = Callable[[int, int, Key, int], Pair]

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


_LAST = (*range(8, 260, 4), 50, 150, 250, 500, 1000)  # when all else fails: sides and lengths
_LONGEST, _SAID = 1 << 14, 16  # the longest of the lengths that a file says, and how many count
_FEW = 8  # numbers of a constant that can be a shape


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


Observe: TypeAlias = Callable[[Types, list[str]], "Types | None"]
"""Types of values from a run at given sizes, for names that have none; None where none runs."""


def choose(source: Source, given: Mapping[str, Array], observe: Observe) -> Traces:
    """Find sizes that the model accepts.

    Where nothing tells the types of some results, these are observed, and sizes at which the model
    does not run are passed over as long as there are others.

    Args:
        source: The model.
        given: Example inputs; their sizes are used where given.
        observe: Runs the model.

    Raises:
        LiftError: The model accepts none of the sizes tried, or is inconsistent.
    """
    reason, doubtful = "", None
    for first, second in _attempts(source, given):
        try:
            a = walk(source, first, {})
            unknown = [n for node in source.nodes for n in node.output if n and n not in a.types]
            hints = observe(first, unknown) if unknown else {}
            if hints is None and doubtful is not None:
                continue
            a = walk(source, first, hints) if hints else a
        except Misfit as error:
            reason = reason or str(error)
            continue
        second, b = _apart(source, first, second, a) if first != second else (second, a)
        found = Traces((first, second), a, b)
        if hints is not None:
            return found
        doubtful = found
    if doubtful is not None:
        return doubtful
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


def _apart(source: Source, first: Types, second: Types, found: Trace) -> tuple[Types, Trace]:
    """The second sizes and what is known there; where not all fit, as many of them as do.

    A batch may be free where the length of a sequence is not.
    """
    with suppress(Misfit):
        return second, walk(source, second, {})
    places = [(_key(item, at), item.name, at) for item, at in _open(source)]
    for key in dict.fromkeys(key for key, _, _ in places):
        tried = {name: _copy(type_) for name, type_ in first.items()}
        for other, name, at in places:
            dims = tried[name].tensor_type.shape.dim
            if other == key and at < len(dims):
                dims[at].CopyFrom(second[name].tensor_type.shape.dim[at])
        if tried != first:
            with suppress(Misfit):
                found, first = walk(source, tried, {}), tried
    return first, found


def _copy(type_: TypeProto) -> TypeProto:
    out = TypeProto()
    out.CopyFrom(type_)
    return out


def _open(source: Source) -> list[tuple[Any, int]]:
    """The inputs' dimensions whose lengths the file leaves open."""
    return [
        (item, at)
        for item in source.inputs
        for at, dim in enumerate(item.type.tensor_type.shape.dim)
        if not is_static(dim)
    ]


def is_static(dim: Any) -> bool:
    """Whether a dimension's length is stated; some exporters write -1 for those that vary."""
    return bool(dim.HasField("dim_value") and dim.dim_value > 0)


def is_open(source: Source) -> bool:
    """Whether an input leaves a length open."""
    return bool(_open(source))


def _attempts(source: Source, given: Mapping[str, Array]) -> Iterator[tuple[Types, Types]]:
    known = settled(source) if is_open(source) else {}
    tried: list[Types] = []
    for guess in _guesses(source):
        sizes = _sizes(source, given, guess, known)
        first, second = (
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
        if first not in tried:
            tried.append(first)
            yield first, second


def _key(item: object, at: int) -> Key:
    dim = item.type.tensor_type.shape.dim[at]  # type: ignore[attr-defined]
    return dim.dim_param or (item.name, at)  # type: ignore[attr-defined]


def _sizes(
    source: Source, given: Mapping[str, Array], guess: _Guess, known: Mapping[tuple[str, int], int]
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
            size = guess(at, len(dims), _key(item, at), channels)
            if item.name in given and given[item.name].ndim == len(dims):
                length = given[item.name].shape[at]
                size = (length, length + (1 if at == 0 else max(length // 2 // 32 * 32, 0)))
            out.setdefault(_key(item, at), size)
    return out


def _guesses(source: Source) -> Iterator[_Guess]:
    """What to try: usual sizes, images whose size the weights fix, then what the file says."""
    for lengths in zip(_IMAGES, _SEQUENCES, _CHANNELS, strict=True):
        yield partial(_guess, _BATCH, *lengths)
    if not is_open(source):
        return
    for side in _EXACT:
        yield partial(_guess, _BATCH, (side, side), (side, side), _CHANNELS[0])
    for batch in _FIRST:
        yield partial(_guess, batch, _IMAGES[0], _SEQUENCES[0], _CHANNELS[0])
    for batch in (_BATCH, (1, 1)):
        for length in _said(source):
            yield partial(_guess, batch, (length, length), (length, length), _CHANNELS[0])
    for length in _LAST:
        yield partial(_guess, _BATCH, (length, length), (length, length), _CHANNELS[0])


def _guess(
    batch: Pair, image: Pair, steps: Pair, colours: int, at: int, rank: int, key: Key, channel: int
) -> Pair:
    """Sizes of a dimension in one of the attempts.

    Args:
        batch: Numbers of samples.
        image: Sides of images.
        steps: Lengths of sequences.
        colours: Channels of images.
        at: The dimension.
        rank: Dimensions of the input.
        key: Its name.
        channel: The dimension of the channels.
    """
    if at == 0 or (isinstance(key, str) and "batch" in key.lower()):
        return batch
    if rank >= 4:
        return (colours, colours) if at == channel else image
    return steps


def _said(source: Source) -> list[int]:
    """Lengths that reshapes and tables of positions are written for."""
    found: list[int] = []
    for name, proto in source.constants.items():
        dims = tuple(proto.dims)
        if proto.data_type == TensorProto.INT64 and prod(dims) <= _FEW:
            found += source.array(name).reshape(-1).tolist()
        elif len(dims) > 2 and dims[0] == 1:
            found += dims[1:-1]
    return [length for length in dict.fromkeys(found) if 1 < length <= _LONGEST][:_SAID]


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

"""notes: what a file says about itself, in the model's `metadata_props`.

Text stands there as it is, so that Netron shows it; data are JSON, compressed, in base64. What
would take more room than it is worth is left out, and a line says so in its place.
"""

from __future__ import annotations

import base64
import binascii
import json
import zlib
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import onnx

from graphprune.core.errors import GraphPruneError
from graphprune.core.files import write_whole
from graphprune.frontends.onnx.model import read_model
from graphprune.frontends.onnx.stored import LARGEST, Lowered

_PREFIX = "graphprune."
_LEFT_OUT = "left out: "
_LEAST = 1 << 16  # bytes that a note may always take: the plan of a network of 100 layers
_ENTRY = 32  # bytes that an entry takes beside its name and its text, at most
_SHARE = 64  # or one byte in so many of the model
_TEXT = 1 << 14  # characters of a text that are written; what follows is cut off


def annotate(lowered: Lowered, notes: Mapping[str, Any], most: int | None = None) -> None:
    """Write notes into a smaller model, in place of those that it holds.

    Args:
        lowered: The smaller model.
        notes: Text, or data for JSON, by name; the earlier ones come first where room is short.
        most: Bytes that the model may weigh with them; `LARGEST` where not given.
    """
    _write(lowered.frame.metadata_props, notes, lowered.weight, most)


def annotate_file(path: Path, notes: Mapping[str, Any]) -> None:
    """Write notes into a file that was exported from a smaller module; else as `annotate`.

    Args:
        path: The file.
        notes: Text, or data for JSON, by name.
    """
    model = onnx.load(path)
    _write(model.metadata_props, notes, model.ByteSize)
    write_whole(path, model.SerializeToString())


def _write(
    props: Any, notes: Mapping[str, Any], weighed: Callable[[], int], most: int | None = None
) -> None:
    """Write notes into a model's `metadata_props`, as far as its weight in bytes allows."""
    others = [(entry.key, entry.value) for entry in props if not entry.key.startswith(_PREFIX)]
    del props[:]
    for key, value in others:
        props.add(key=key, value=value)
    for name, found in notes.items():
        weight = weighed()
        room = min(max(_LEAST, weight // _SHARE), (most or LARGEST) - weight - _ENTRY)
        text = found if isinstance(found, str) else _packed(found)
        if isinstance(found, str) and len(text) > _TEXT:
            text = f"{text[:_TEXT]}..."
        elif len(text) > room:
            text = f"{_LEFT_OUT}{len(text)} bytes"
        if len(text) + len(name) < room:
            props.add(key=f"{_PREFIX}{name}", value=text)


def note_of(model: Any, name: str) -> Any:
    """The data of a note, and the bytes of the model that holds it.

    Args:
        model: A path or a ModelProto.
        name: The note's name.

    Returns:
        What JSON gave, and the model's bytes, data in files of their own included.

    Raises:
        GraphPruneError: The file cannot be read, or the model holds no such note; says why.
    """
    source = read_model(model)
    whole = source.whole or source.model
    for entry in whole.metadata_props:
        if entry.key == f"{_PREFIX}{name}":
            if entry.value.startswith(_LEFT_OUT):
                raise GraphPruneError(
                    f"{source.label} does not hold its {name}, which was {entry.value}: keep a "
                    "plan beside the file, plan.save('plan.json')"
                )
            return _unpacked(entry.value, f"{source.label}: {name}"), source.weight()
    raise GraphPruneError(
        f"{source.label} holds no {name} of graphprune: it was not made by it, or another tool "
        "has dropped the metadata since"
    )


def _packed(data: Any) -> str:
    return base64.b64encode(zlib.compress(json.dumps(data).encode(), 9)).decode()


def _unpacked(text: str, what: str) -> Any:
    try:
        return json.loads(zlib.decompress(base64.b64decode(text, validate=True)))
    except (binascii.Error, zlib.error, ValueError) as error:
        raise GraphPruneError(f"{what} is damaged: {error}") from error

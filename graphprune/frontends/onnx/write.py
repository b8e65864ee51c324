"""write: the smaller model as a file, tensor by tensor."""

from __future__ import annotations

from pathlib import Path

from graphprune.files import write_whole
from graphprune.frontends.onnx.lower import Lowered


def write(lowered: Lowered, path: Path) -> None:
    """Write a model; whatever happens, the old file or the new one is there.

    Raises:
        GraphPruneError: The file cannot be written.
    """
    write_whole(path, lowered.proto().SerializeToString())

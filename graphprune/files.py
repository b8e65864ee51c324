"""Files are written whole or not at all."""

from __future__ import annotations

import os
import tempfile
from pathlib import Path

import numpy as np
import torch

from graphprune.errors import GraphPruneError


def read_tensor(path: Path) -> torch.Tensor:
    """Read one tensor from a `.npy` or `.pt` file.

    Raises:
        GraphPruneError: The file cannot be read, or holds something else.
    """
    try:
        held = np.load(path) if path.suffix == ".npy" else torch.load(path, weights_only=True)
    except Exception as error:
        lines = str(error).splitlines() or [type(error).__name__]
        raise GraphPruneError(f"cannot read {path}: {lines[0]}") from error
    if isinstance(held, np.ndarray):
        held = torch.from_numpy(held)
    if not isinstance(held, torch.Tensor):
        raise GraphPruneError(f"{path} holds a {type(held).__name__}: one tensor is needed")
    return held


def write_whole(path: str | Path, data: bytes) -> None:
    """Write a file: whatever happens, the old content or the new one is there.

    Raises:
        GraphPruneError: The folder does not exist or cannot be written.
    """
    path = Path(path)
    try:
        handle, temporary = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
    except OSError as error:
        raise GraphPruneError(f"cannot write {path}: {error.strerror}") from error
    try:
        with os.fdopen(handle, "wb") as file:
            file.write(data)
        mode = path.stat().st_mode & 0o777 if path.exists() else 0o666 & ~_umask()
        os.chmod(temporary, mode)
        os.replace(temporary, path)
    except BaseException as error:
        Path(temporary).unlink(missing_ok=True)
        if isinstance(error, OSError):
            raise GraphPruneError(f"cannot write {path}: {error.strerror}") from error
        raise


def _umask() -> int:
    mask = os.umask(0)
    os.umask(mask)
    return mask

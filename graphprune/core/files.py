"""Files are written whole or not at all."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO

from graphprune.core.errors import GraphPruneError

_BESIDE = ".graphprune-"
"""How a file is called while it is written: a longer name than its own could be too long."""


def as_path(path: object) -> Path:
    """The path that a caller names, of a file that is there or not.

    Raises:
        GraphPruneError: It is no path, or nothing can be called so.
    """
    name = os.fspath(path) if isinstance(path, str | os.PathLike) else None
    if not isinstance(name, str) or not name:
        raise GraphPruneError(f"a path is needed, not {path!r}")
    try:
        os.stat(name)
    except (FileNotFoundError, NotADirectoryError):
        pass
    except OSError as error:
        raise GraphPruneError(f"cannot use {name}: {error.strerror}") from error
    except ValueError as error:  # a null character, or what is no text
        raise GraphPruneError(f"cannot use {name!r}: {error}") from error
    return Path(name)


def check_target(path: object, suffixes: Sequence[str] = ()) -> Path:
    """Refuse a place that could not be written, before the work whose result goes there.

    Args:
        path: Where to write.
        suffixes: How the name may end; anything where there are none.

    Raises:
        GraphPruneError: It is no path, ends otherwise, is a folder, or cannot be written.
    """
    target = as_path(path)
    if suffixes and target.suffix not in suffixes:
        *others, last = suffixes
        names = f"{', '.join(others)} or {last}" if others else last
        raise GraphPruneError(f"{target}: the output is a {names} file")
    if target.is_dir():
        raise GraphPruneError(f"cannot write {target}: it is a folder")
    if not target.parent.is_dir():
        raise GraphPruneError(f"cannot write {target}: there is no folder {target.parent}")
    if not os.access(target.parent, os.W_OK):
        raise GraphPruneError(f"cannot write {target}: the folder {target.parent} is read-only")
    return target


@contextmanager
def replacing(path: str | Path) -> Iterator[BinaryIO]:
    """A new file that takes the place of `path` once it is complete.

    Raises:
        GraphPruneError: The folder does not exist or cannot be written.
    """
    path = Path(path)
    try:
        handle, temporary = tempfile.mkstemp(dir=path.parent, prefix=_BESIDE)
    except OSError as error:
        raise GraphPruneError(f"cannot write {path}: {error.strerror}") from error
    try:
        with os.fdopen(handle, "wb") as file:
            yield file
        mode = path.stat().st_mode & 0o777 if path.exists() else 0o666 & ~_umask()
        os.chmod(temporary, mode)
        os.replace(temporary, path)
    except BaseException as error:
        Path(temporary).unlink(missing_ok=True)
        if isinstance(error, OSError):
            raise GraphPruneError(f"cannot write {path}: {error.strerror}") from error
        raise


def write_whole(path: str | Path, data: bytes) -> None:
    """Write a file: whatever happens, the old content or the new one is there.

    Raises:
        GraphPruneError: The folder does not exist or cannot be written.
    """
    with replacing(path) as file:
        file.write(data)


def _umask() -> int:
    mask = os.umask(0)
    os.umask(mask)
    return mask

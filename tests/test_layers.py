"""The layers of the house: each room imports only from those below it, lazily or not."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

ROOT = Path(__file__).parent.parent

LAYERS = """
version
core
rules
engine
costs
statistics
importance
compensation
choice
sparsity
lowrank
frontends
pipeline
passes
testing
report
extensions
pictures
models
pipelines
options
foretelling
planning
recalibration
exporting
plans
loading
compacting
factoring
iterative
inspecting
rounding
exploring
sweeping
api
training
quantising
deploying
demo
public
__init__
commands
cli
__main__
""".split()
"""The rooms, lowest first: folders of the package, and the modules beside them."""


def _files() -> Iterator[Path]:
    for path in sorted([*ROOT.glob("graphprune/**/*.py"), *ROOT.glob("passes/*.py")]):
        if "graphprune/passes" not in path.as_posix():
            yield path


def _module(path: Path) -> str:
    parts = path.relative_to(ROOT).with_suffix("").parts
    parts = ("graphprune", *parts) if parts[0] == "passes" else parts
    return ".".join(parts).removesuffix(".__init__")


def _room(module: str) -> str:
    parts = module.split(".")
    return parts[1] if len(parts) > 1 else "__init__"


def _imports(path: Path, names: set[str]) -> Iterator[tuple[int, str]]:
    """Modules of the package that a file imports anywhere, with the line."""
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.ImportFrom) and (node.module or "").split(".")[0] == "graphprune":
            for alias in node.names:
                whole = f"{node.module}.{alias.name}"
                yield node.lineno, whole if whole in names else str(node.module)
        elif isinstance(node, ast.Import):
            for alias in node.names:
                if alias.name.split(".")[0] == "graphprune":
                    yield node.lineno, alias.name


def _offenders() -> list[str]:
    files = list(_files())
    names = {_module(path) for path in files}
    out = []
    for path in files:
        own = _room(_module(path))
        for line, other in _imports(path, names):
            if LAYERS.index(_room(other)) > LAYERS.index(own):
                out.append(f"{path.relative_to(ROOT)}:{line}: {own} imports {other}, above it")
    return out


def test_every_room_has_its_layer() -> None:
    assert {_room(_module(path)) for path in _files()} <= set(LAYERS)


def test_no_import_runs_upwards() -> None:
    assert _offenders() == []


def test_the_wings_know_no_frontend_by_name() -> None:
    """What a wing knows of a model, it knows from the `Program` protocol."""
    for room in ("core", "rules", "engine", "costs", "statistics", "importance", "compensation"):
        for path in ROOT.glob(f"graphprune/{room}/**/*.py"):
            for node in ast.walk(ast.parse(path.read_text())):
                if isinstance(node, ast.Import | ast.ImportFrom):
                    module = getattr(node, "module", None) or ""
                    named = [alias.name for alias in node.names]
                    assert not any(name.split(".")[0] == "onnx" for name in [module, *named]), path

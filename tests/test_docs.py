"""What the README and the pages of `docs/` show does run, and prints what they say it prints.

- Blocks of `python` run one after the other and share their names; a `text` block right behind one
  is what it prints (`...` stands for anything).
- Hidden set-up stands in a comment: `<!-- setup`, Python, `-->`.
- Blocks of `console` run: a line `$ graphprune ...`, and what it prints.
- Commands in `sh` blocks are parsed: their options exist.
"""

from __future__ import annotations

import contextlib
import doctest
import io
import re
import shlex
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import torch
from typer.main import get_command
from typer.testing import CliRunner

import graphprune
from graphprune.cli import app
from graphprune.core import errors
from graphprune.costs.registry import _COSTS
from graphprune.importance import CRITERIA
from graphprune.pipeline import PASSES
from graphprune.rules.registry import _RULES
from tests import clock
from tools import list_operators

ROOT = Path(__file__).parent.parent
PAGES = [ROOT / "README.md", *sorted(ROOT.glob("docs/**/*.md"))]
LENGTH_OF_README = 250  # lines: one screen per question
_CHECKER = doctest.OutputChecker()
_FORGIVING = doctest.ELLIPSIS | doctest.NORMALIZE_WHITESPACE
_BLOCK = re.compile(
    r"^(?P<indent> *)(?:```(?P<kind>\w+)[^\n]*\n(?P<code>.*?)^(?P=indent)```$"
    r"|<!-- setup\n(?P<setup>.*?)^-->$)",
    re.M | re.S,
)


@dataclass(frozen=True)
class Block:
    """A block of a page: its kind, its text, and the line that the text starts at."""

    kind: str
    text: str
    line: int
    end: int
    start: int


def blocks(page: Path) -> list[Block]:
    """The blocks of a page, hidden set-up included."""
    text = page.read_text()
    out = []
    for found in _BLOCK.finditer(text):
        name = "code" if found["kind"] else "setup"
        line = text.count("\n", 0, found.start(name)) + 1
        code = re.sub(f"^{found['indent']}", "", found[name], flags=re.M)
        out.append(Block(found["kind"] or "setup", code, line, found.end(), found.start()))
    return out


def followed(page: Path) -> Iterator[tuple[Block, str | None]]:
    """Every block, with the text block right behind it."""
    text, found = page.read_text(), blocks(page)
    for i, block in enumerate(found):
        behind = found[i + 1] if i + 1 < len(found) else None
        if behind and behind.kind == "text" and not text[block.end : behind.start].strip():
            yield block, behind.text
        else:
            yield block, None


def agree(wanted: str, printed: str, where: str) -> None:
    same = _CHECKER.check_output(wanted.strip() + "\n", printed.strip() + "\n", _FORGIVING)
    assert same, f"{where} prints\n{printed}\nwhere the page shows\n{wanted}"


def commands(block: Block) -> list[str]:
    """The shell commands of a block, one a line; `&&` separates them too."""
    lines = re.sub(r"\\\n\s*", "", block.text).splitlines()
    if block.kind == "console":
        lines = [line.removeprefix("$ ") for line in lines if line.startswith("$ ")]
    parts = [part.partition(" #")[0].strip() for line in lines for part in line.split("&&")]
    return [part for part in parts if part]


def _names(page: Path) -> Any:
    return str(page.relative_to(ROOT))


@pytest.fixture(autouse=True)
def what_pages_register_is_forgotten() -> Iterator[None]:
    assert graphprune.DEFAULT  # asked for, it fills the tables; else they would be emptied again
    tables: list[dict[Any, Any]] = [_RULES, _COSTS, CRITERIA, PASSES]
    known = [dict(table) for table in tables]
    yield
    for table, before in zip(tables, known, strict=True):
        table.clear()
        table.update(before)


RUN = [p for p in PAGES if {b.kind for b in blocks(p)} & {"python", "console"}]
SHOWN = [p for p in PAGES if {b.kind for b in blocks(p)} & {"sh", "console"}]


@pytest.mark.parametrize("page", RUN, ids=_names)
def test_the_code_runs_and_prints_what_is_shown(
    page: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(str(tmp_path))
    torch.manual_seed(0)
    clock.replace(monkeypatch, tmp_path / "cache")
    names: dict[str, Any] = {"__name__": "__main__"}
    for block, wanted in followed(page):
        where = f"{page.relative_to(ROOT)}:{block.line}"
        if block.kind in ("python", "setup"):
            printed = io.StringIO()
            code = compile("\n" * (block.line - 1) + block.text, str(page), "exec")
            with contextlib.redirect_stdout(printed):
                exec(code, names)
            if wanted is not None:
                agree(wanted, printed.getvalue(), where)
        elif block.kind == "console":
            for shown in block.text.split("$ graphprune ")[1:]:
                command, _, wanted = shown.partition("\n")
                result = CliRunner().invoke(app, shlex.split(command))
                assert result.exit_code == 0, f"{where}: {result.output} {result.exception}"
                if wanted.strip():
                    agree(wanted, result.output, where)


@pytest.mark.parametrize("page", SHOWN, ids=_names)
def test_the_options_of_shown_commands_exist(page: Path) -> None:
    group: Any = get_command(app)
    for block in blocks(page):
        for command in commands(block) if block.kind in ("sh", "console") else []:
            words = [w for w in shlex.split(command) if not re.fullmatch(r"\w+=\S*", w) or "/" in w]
            if words[:1] == ["graphprune"]:
                name, *rest = shlex.split(command)[1:]
                assert name in group.commands, command
                group.commands[name].make_context(name, rest)
            elif words[:1] == ["python"] and words[1].startswith("tools/"):
                text = (ROOT / words[1]).read_text()
                text += "".join(p.read_text() for p in sorted(ROOT.glob("tools/accuracy/*.py")))
                for word in words[2:]:
                    assert not word.startswith("--") or f'"{word}"' in text, command


@pytest.mark.parametrize("page", PAGES, ids=_names)
def test_links_lead_to_files_and_headings(page: Path) -> None:
    for target in re.findall(r"\]\((?!https?:)([^)\s]+)\)", page.read_text()):
        path, _, heading = target.partition("#")
        found = (page.parent / path).resolve() if path else page
        assert found.exists(), target
        if heading and found.suffix == ".md":
            titles = re.findall(r"^#+ (.+)$", found.read_text(), re.M)
            slugs = {re.sub(r"[^\w\- ]", "", t.lower()).replace(" ", "-") for t in titles}
            assert heading in slugs, target


def test_the_readme_is_short() -> None:
    assert len((ROOT / "README.md").read_text().splitlines()) <= LENGTH_OF_README


def test_every_error_and_every_public_name_has_its_place() -> None:
    listed = (ROOT / "docs" / "errors.md").read_text()
    for name, item in vars(errors).items():
        if isinstance(item, type) and issubclass(item, errors.GraphPruneError):
            assert f"`{name}`" in listed, f"docs/errors.md lacks {name}"
    reference = (ROOT / "docs" / "reference.md").read_text()
    for name in graphprune.__all__:
        if name != "__version__":
            assert f"::: graphprune.{name}\n" in reference, f"docs/reference.md lacks {name}"


def test_the_list_of_operators_is_up_to_date() -> None:
    shown = list_operators.PAGE.read_text()
    if list_operators.versions() in shown:
        assert shown == list_operators.page(), "run python tools/list_operators.py"
    else:  # other packages know other operations
        assert "## ONNX" in list_operators.page()

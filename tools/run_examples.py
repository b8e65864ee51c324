"""Run the notebooks of `docs/examples/` cell by cell, and store what they print.

    python tools/run_examples.py                 # all of them, anew
    python tools/run_examples.py unet timm       # some

No kernel and no notebook package is needed: cells are Python, and run in one namespace in order.
What a cell prints, and the value of its last line, are stored as its output.
"""

from __future__ import annotations

import argparse
import ast
import contextlib
import io
import json
from pathlib import Path
from typing import Any

FOLDER = Path(__file__).parent.parent / "docs" / "examples"
_INDENT = 1  # as Jupyter writes them


def notebooks() -> list[Path]:
    """All of them, by name."""
    return sorted(FOLDER.glob("*.ipynb"))


def read(path: Path) -> dict[str, Any]:
    """A notebook as data."""
    found: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    return found


def run(path: Path) -> list[str]:
    """Run a notebook.

    Returns:
        What each cell of code prints, the value of its last line included.
    """
    names: dict[str, Any] = {"__name__": "__main__"}
    out = []
    for cell in read(path)["cells"]:
        if cell["cell_type"] != "code":
            continue
        tree = ast.parse("".join(cell["source"]), str(path))
        last = tree.body.pop() if tree.body and isinstance(tree.body[-1], ast.Expr) else None
        said = io.StringIO()
        with contextlib.redirect_stdout(said):
            exec(compile(tree, str(path), "exec"), names)
            if isinstance(last, ast.Expr):
                value = eval(compile(ast.Expression(last.value), str(path), "eval"), names)
                if value is not None:
                    print(repr(value))
        out.append(said.getvalue())
    return out


def store(path: Path, printed: list[str]) -> None:
    """Write what the cells printed into the notebook."""
    book = read(path)
    cells = [cell for cell in book["cells"] if cell["cell_type"] == "code"]
    for number, (cell, text) in enumerate(zip(cells, printed, strict=True), 1):
        cell["execution_count"] = number
        lines = text.splitlines(keepends=True)
        stream = {"name": "stdout", "output_type": "stream", "text": lines}
        cell["outputs"] = [stream] if lines else []
    path.write_text(json.dumps(book, indent=_INDENT, ensure_ascii=False) + "\n", encoding="utf-8")


def as_markdown(book: dict[str, Any]) -> str:
    """A notebook as a page of the documentation."""
    parts = []
    for cell in book["cells"]:
        source = "".join(cell["source"])
        if cell["cell_type"] == "markdown":
            parts.append(source)
            continue
        parts.append(f"```python\n{source}\n```")
        text = "".join("".join(output.get("text", ())) for output in cell["outputs"])
        if text:
            parts.append(f"```text\n{text.rstrip()}\n```")
    return "\n\n".join(parts) + "\n"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else "")
    parser.add_argument("names", nargs="*", help="parts of names; all without")
    wanted = parser.parse_args().names
    for path in notebooks():
        if not wanted or any(name in path.stem for name in wanted):
            store(path, run(path))
            print(f"ran {path.name}")


if __name__ == "__main__":
    main()

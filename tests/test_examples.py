"""The notebooks of `docs/examples/` run, say what they are about, and store what they print."""

from __future__ import annotations

import warnings
from pathlib import Path

import pytest

from tools import run_examples

SLOW = {
    "hf_decoder",
    "hf_encoder",
    "onnx_int8",
    "timm",
}  # imports of transformers, exports: many seconds
NEEDS = {
    "timm": ("timm",),
    "hf_encoder": ("transformers", "accelerate"),
    "hf_decoder": ("transformers", "accelerate"),
    "onnx_int8": ("onnxruntime",),
}
LISTED = (run_examples.FOLDER / "index.md").read_text()


@pytest.mark.parametrize(
    "path",
    [
        pytest.param(path, marks=[pytest.mark.slow] if path.stem in SLOW else [], id=path.stem)
        for path in run_examples.notebooks()
    ],
)
def test_a_notebook_runs(path: Path) -> None:
    for name in NEEDS.get(path.stem, ()):
        pytest.importorskip(name)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of others' packages, which are not what is tested
        printed = run_examples.run(path)
    assert any(printed) and "False\n" not in printed  # what a cell claims, it prints as True


@pytest.mark.parametrize("path", run_examples.notebooks(), ids=lambda path: path.stem)
def test_a_notebook_is_listed_and_has_its_outputs(path: Path) -> None:
    book = run_examples.read(path)
    assert f"({path.stem}.ipynb)" in LISTED
    assert book["cells"][0]["source"][0].startswith("# ")
    code = [cell for cell in book["cells"] if cell["cell_type"] == "code"]
    assert all(cell["execution_count"] for cell in code), "run python tools/run_examples.py"
    assert "```text" in run_examples.as_markdown(book)

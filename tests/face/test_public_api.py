"""The public face: everything in `__all__`, documented and annotated."""

from __future__ import annotations

import importlib.metadata
import inspect
import subprocess
import sys

import pytest

import graphprune
from graphprune import public
from graphprune.core import errors


def _public() -> list[str]:
    found = vars(public).items()
    return [n for n, held in found if not n.startswith("_") and not inspect.ismodule(held)]


def test_every_public_name_is_listed() -> None:
    assert len(set(graphprune.__all__)) == len(graphprune.__all__)
    assert set(_public()) | {"__version__"} == set(graphprune.__all__)


@pytest.mark.parametrize("name", [n for n in graphprune.__all__ if not n.startswith("__")])
def test_every_public_name_is_documented_and_annotated(name: str) -> None:
    found = getattr(graphprune, name)
    assert inspect.getdoc(found)
    if inspect.isfunction(found):
        signature = inspect.signature(found)
        assert signature.return_annotation is not inspect.Signature.empty
        for parameter in signature.parameters.values():
            assert parameter.annotation is not inspect.Parameter.empty


def test_errors_have_one_base() -> None:
    kinds = [
        k for k in vars(errors).values() if inspect.isclass(k) and k.__module__ == errors.__name__
    ]
    assert len(kinds) == 9
    assert all(issubclass(kind, graphprune.GraphPruneError) for kind in kinds)


def test_the_version_is_that_of_the_package() -> None:
    try:
        assert importlib.metadata.version("graphprune") == graphprune.__version__
    except importlib.metadata.PackageNotFoundError:
        pytest.skip("not installed")


def test_importing_is_light() -> None:
    heavy = ["timm", "torchvision", "transformers", "onnxruntime", "sklearn", "onnx"]
    code = (
        f"import sys, graphprune; graphprune.plan; print([m for m in {heavy} if m in sys.modules])"
    )
    found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert found.stdout.strip() == "[]"


def test_help_imports_no_pytorch() -> None:
    code = (
        "import sys, graphprune.cli; sys.argv = ['graphprune', 'shrink', '--help']\n"
        "try: graphprune.cli.main()\n"
        "except SystemExit: sys.exit('torch' in sys.modules)"
    )
    subprocess.run([sys.executable, "-c", code], capture_output=True, check=True)


def test_names_that_do_not_exist_are_errors() -> None:
    assert not hasattr(graphprune, "nothing") and not hasattr(graphprune, "_nothing")
    assert set(graphprune.__all__) <= set(dir(graphprune))

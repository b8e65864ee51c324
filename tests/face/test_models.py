"""Names on the command line: what they stand for, and what is said of those that stand for none."""

from __future__ import annotations

import inspect
import sys
from pathlib import Path

import pytest
import torch
from torch import nn

from graphprune.core.errors import GraphPruneError
from graphprune.models import load_model

FACTORY = """
import torch
from torch import nn

def net():
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(6, 16), nn.ReLU(), nn.Linear(16, 4)).train()

ready = net()
number = 3

def wrong():
    return {}
"""


@pytest.fixture
def factory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """A module that only the current directory can provide."""
    (tmp_path / "factory_for_models.py").write_text(FACTORY)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", list(sys.path))
    monkeypatch.delitem(sys.modules, "factory_for_models", raising=False)
    return "factory_for_models"


def zeros(model: nn.Module) -> dict[str, torch.Tensor]:
    return {name: torch.zeros_like(tensor) for name, tensor in model.state_dict().items()}


@pytest.mark.parametrize("name", ["shufflenet_v2_x0_5", "torchvision:shufflenet_v2_x0_5"])
def test_torchvision_comes_first(name: str) -> None:
    model = load_model(name)
    assert type(model).__module__.startswith("torchvision.")
    assert not model.training


@pytest.mark.parametrize("name", ["timm:test_resnet", "test_resnet"])
def test_timm_names(name: str) -> None:
    assert type(load_model(name)).__module__.startswith("timm.")


def test_a_name_of_both_is_told_apart_by_its_prefix() -> None:
    assert type(load_model("resnet18")).__module__.startswith("torchvision.")
    assert type(load_model("timm:resnet18")).__module__.startswith("timm.")


def test_unknown_names_bring_close_ones() -> None:
    for name in ("resnt18", "timm:resnt18", "torchvision:resnt18"):
        with pytest.raises(GraphPruneError, match=r"'resnt18'; did you mean resnet18") as caught:
            load_model(name)
        assert str(caught.value).count(",") <= 4, "five names at most"


def test_a_library_that_is_missing_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    for library in ("timm", "torchvision"):
        monkeypatch.setitem(sys.modules, library, None)
    with pytest.raises(GraphPruneError, match=r"pip install 'graphprune\[models\]'"):
        load_model("timm:resnet18")
    with pytest.raises(GraphPruneError, match=r"needs torchvision: pip install"):
        load_model("torchvision:resnet18")
    with pytest.raises(GraphPruneError, match=r"pip install 'graphprune\[models\]'"):
        load_model("resnet18")


def test_a_factory_of_the_current_directory(factory: str) -> None:
    model = load_model(f"{factory}:net")
    assert isinstance(model, nn.Sequential)
    assert not model.training
    assert load_model(f"{factory}:net") is not model


def test_a_module_is_taken_as_it_is(factory: str) -> None:
    assert load_model(f"{factory}:ready") is sys.modules[factory].ready


@pytest.mark.parametrize(
    ("attribute", "says"), [("missing", "has no missing"), ("wrong", "is a dict, not a torch.nn")]
)
def test_a_factory_that_is_none(factory: str, attribute: str, says: str) -> None:
    with pytest.raises(GraphPruneError, match=says):
        load_model(f"{factory}:{attribute}")


def test_a_python_module_that_is_missing() -> None:
    with pytest.raises(GraphPruneError, match="cannot import no_such_python_module"):
        load_model("no_such_python_module:net")


def test_a_pickled_module(factory: str, tmp_path: Path) -> None:
    model = load_model(f"{factory}:net")
    torch.save(model, tmp_path / "whole.pth")
    found = load_model("whole.pth")
    x = torch.randn(2, 6)
    assert torch.equal(found(x), model(x))


def test_files_that_hold_no_model(tmp_path: Path) -> None:
    torch.save({"weight": torch.zeros(1)}, tmp_path / "state.pt")
    (tmp_path / "text.pt").write_text("not a model")
    with pytest.raises(GraphPruneError, match=r"holds a state dict.*--weights .*state\.pt"):
        load_model(str(tmp_path / "state.pt"))
    with pytest.raises(GraphPruneError, match=r"cannot read .*text\.pt"):
        load_model(str(tmp_path / "text.pt"))
    with pytest.raises(GraphPruneError, match=r"there is no file .*missing\.pt"):
        load_model(str(tmp_path / "missing.pt"))


@pytest.mark.parametrize("suffix", [".pt", ".safetensors"])
def test_weights_replace_the_models_own(factory: str, tmp_path: Path, suffix: str) -> None:
    from safetensors.torch import save_file

    name, path = f"{factory}:net", tmp_path / f"weights{suffix}"
    assert any(parameter.any() for parameter in load_model(name).parameters())
    state = zeros(load_model(name))
    torch.save(state, path) if suffix == ".pt" else save_file(state, path)
    assert not any(parameter.any() for parameter in load_model(name, path).parameters())


def test_weights_that_do_not_fit(factory: str, tmp_path: Path) -> None:
    state = zeros(load_model(f"{factory}:net"))
    torch.save({**state, "0.weight": torch.zeros(3, 3)}, tmp_path / "other.pt")
    with pytest.raises(GraphPruneError, match=r"other\.pt does not fit.*0\.weight"):
        load_model(f"{factory}:net", tmp_path / "other.pt")
    with pytest.raises(GraphPruneError, match=r"there is no file .*missing\.pt"):
        load_model(f"{factory}:net", tmp_path / "missing.pt")


def test_safetensors_is_named_where_it_is_missing(
    factory: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "w.safetensors").write_bytes(b"")
    monkeypatch.setitem(sys.modules, "safetensors.torch", None)
    with pytest.raises(GraphPruneError, match="pip install safetensors"):
        load_model(f"{factory}:net", tmp_path / "w.safetensors")


def test_weights_files_run_no_code(factory: str, tmp_path: Path) -> None:
    class Trap:
        def __reduce__(self) -> tuple[object, tuple[str]]:
            return Path.touch, (tmp_path / "sprung",)  # type: ignore[return-value]

    torch.save({"0.weight": Trap()}, tmp_path / "trap.pt")
    with pytest.raises(GraphPruneError, match=r"cannot read .*trap\.pt"):
        load_model(f"{factory}:net", tmp_path / "trap.pt")
    assert not (tmp_path / "sprung").exists()


def test_the_docstring_warns_of_unpickling() -> None:
    assert "trust" in (inspect.getdoc(load_model) or "")

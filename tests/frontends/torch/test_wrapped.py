"""Exported programs and data-parallel modules: the same kind comes out."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn
from torch.export import Dim, ExportedProgram

import graphprune
from graphprune import LiftError
from graphprune.models import load_model
from tests.blocks import Attention


class _Pair(nn.Module):
    """One positional and one keyword input, a dict of outputs."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.last = nn.Linear(8, 32), nn.Linear(32, 4)

    def forward(self, x: torch.Tensor, *, y: torch.Tensor) -> dict[str, torch.Tensor]:
        return {"z": self.last((self.first(x) + self.first(y)).relu())}


def _program(dynamic: bool) -> ExportedProgram:
    x = torch.randn(2, 8)
    shapes: Any = {"x": {0: Dim.AUTO}, "y": {0: Dim.AUTO}} if dynamic else None
    return torch.export.export(_Pair().eval(), (x,), {"y": x}, dynamic_shapes=shapes)


@pytest.mark.parametrize("dynamic", [False, True], ids=["static", "dynamic"])
def test_a_program_gives_a_program_with_the_same_dynamic_dimensions(dynamic: bool) -> None:
    program = _program(dynamic)
    before = {name: tensor.shape for name, tensor in program.state_dict.items()}
    plan = graphprune.plan(program, 0.5, effort="fast")
    small = plan.apply()
    assert isinstance(small, ExportedProgram)
    assert plan.report is not None and plan.report.verification is not None
    assert small.state_dict["first.weight"].shape == (16, 8)
    x = torch.randn(5 if dynamic else 2, 8)
    assert small.module()(x, y=x)["z"].shape == (len(x), 4)
    assert {name: tensor.shape for name, tensor in program.state_dict.items()} == before


def test_the_size_that_a_program_takes_stays_whatever_the_data() -> None:
    net = nn.Sequential(nn.Linear(8, 32), nn.ReLU(), nn.Linear(32, 4)).eval()
    program = torch.export.export(net, (torch.randn(6, 8),))
    small = graphprune.shrink(program, 0.5, data=torch.randn(16, 8), compensate=False)
    assert small.module()(torch.randn(6, 8)).shape == (6, 4)


def test_code_that_fixes_its_widths_is_generated_anew() -> None:
    batch = Dim("batch")
    program = torch.export.export(
        Attention().eval(), (torch.randn(2, 6, 10),), dynamic_shapes=({0: batch},)
    )
    small = graphprune.shrink(program, 0.5, compensate=False)
    assert small.module()(torch.randn(3, 6, 10)).shape[0] == 3


def test_a_file_of_a_program(tmp_path: Path) -> None:
    path = tmp_path / "model.pt2"
    torch.export.save(_program(True), path)
    assert load_model(str(path)) == path
    assert [group.size for group in graphprune.analyze(path).groups] == [32]
    plan = graphprune.plan(path, 0.5, compensate=False)
    plan.write(tmp_path / "small.pt2")
    assert torch.export.load(tmp_path / "small.pt2").state_dict["last.weight"].shape == (4, 16)
    with pytest.raises(graphprune.GraphPruneError, match=r"as a \.pt2 or \.onnx file"):
        plan.write(tmp_path / "small.pt")
    (tmp_path / "broken.pt2").write_bytes(b"no archive")
    with pytest.raises(graphprune.GraphPruneError, match="cannot read"):
        graphprune.shrink(tmp_path / "broken.pt2", 0.5, compensate=False)


def test_a_plan_fits_the_program_again(tmp_path: Path) -> None:
    program = _program(False)
    plan = graphprune.plan(program, 0.5, compensate=False)
    plan.save(tmp_path / "plan.json")
    again = graphprune.load_plan(tmp_path / "plan.json").apply(program)
    torch.testing.assert_close(dict(again.state_dict), dict(plan.apply().state_dict))


def test_a_data_parallel_module_stays_one() -> None:
    model = nn.DataParallel(nn.Sequential(nn.Linear(8, 32), nn.ReLU(), nn.Linear(32, 4)))
    small = graphprune.shrink(model, 0.5, example_inputs=torch.randn(2, 8), effort="fast")
    assert type(small) is nn.DataParallel and small.module[0].out_features == 16
    assert model.module[0].out_features == 32
    assert small(torch.randn(3, 8)).shape == (3, 4)


class _Checked(nn.Module):
    """Code that looks at a width and compares it with an attribute."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.width = width
        self.scale = nn.Parameter(torch.ones(1))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        assert x.shape[1] == self.width
        if x.shape[-1] != self.width:
            raise ValueError("wrong width")
        return (x * self.scale).reshape(-1, x.shape[-1])


def test_an_attribute_that_code_only_compares_gets_the_new_width() -> None:
    model = nn.Sequential(nn.Linear(8, 32), _Checked(32), nn.Linear(32, 4))
    plan = graphprune.plan(model, 0.5, example_inputs=torch.randn(2, 8), compensate=False)
    small = plan.apply()
    assert isinstance(small[1], _Checked) and small[1].width == small[0].out_features == 16
    assert plan.report is not None and plan.report.edits == {"1.width": 16}


@pytest.mark.parametrize("inside", ["weights", "inputs", "call"])
def test_inference_mode_gives_ordinary_tensors(inside: str) -> None:
    def made() -> tuple[nn.Module, torch.Tensor]:
        layers = nn.Linear(8, 32), nn.BatchNorm1d(32), nn.ReLU(), nn.Linear(32, 4)
        return nn.Sequential(*layers), torch.randn(2, 8)

    with torch.inference_mode():
        inner = made()
    outer = made()
    model = (inner if inside == "weights" else outer)[0]
    x = (inner if inside == "inputs" else outer)[1]
    with torch.inference_mode(inside == "call"):
        small = graphprune.shrink(model, 0.5, example_inputs=x, effort="fast")
    assert small[0].out_features == 16
    small(torch.randn(2, 8)).sum().backward()
    assert model[0].weight.is_inference() == (inside == "weights")


def test_distributed_modules_tell_the_way_out(tmp_path: Path) -> None:
    store = torch.distributed.FileStore(str(tmp_path / "store"), 1)
    torch.distributed.init_process_group("gloo", store=store, rank=0, world_size=1)
    try:
        wrapped = nn.parallel.DistributedDataParallel(nn.Linear(8, 4))
        with pytest.raises(LiftError, match=r"shrink the module that it holds \(model\.module\)"):
            graphprune.shrink(wrapped, 0.5, compensate=False)
        with pytest.raises(LiftError, match=r"0 \(DistributedDataParallel\) is bound to"):
            graphprune.shrink(nn.Sequential(wrapped), 0.5, compensate=False)
    finally:
        torch.distributed.destroy_process_group()

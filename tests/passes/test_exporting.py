"""Files written from modules: norms are folded and branches merged, and the outputs stay."""

from __future__ import annotations

from pathlib import Path

import onnx
import onnxruntime
import torch
from torch import nn

import graphprune
from graphprune.exporting import fold_file, write_module
from tests.passes.test_fold_norms import IMAGE, gap, trained
from tests.passes.test_merging import Branches


def net() -> nn.Module:
    """Branches that are added, and a norm in front of a convolution."""
    return trained(
        nn.Sequential(
            nn.Conv2d(3, 6, 1), nn.ReLU(), Branches(6), nn.BatchNorm2d(6), nn.Conv2d(6, 4, 3),
            nn.BatchNorm2d(4), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(4, 5),
        )
    )  # fmt: skip


def ran(path: Path, x: torch.Tensor) -> torch.Tensor:
    """What ONNX Runtime makes of a file."""
    session = onnxruntime.InferenceSession(path.read_bytes())
    found = session.run(None, {session.get_inputs()[0].name: x.numpy()})
    return torch.from_numpy(found[0])


def types(path: Path) -> list[str]:
    """The operations of a file."""
    return [node.op_type for node in onnx.load(path).graph.node]


def test_a_plan_writes_a_folded_file_and_a_module_with_its_norms(tmp_path: Path) -> None:
    model = net()
    plan = graphprune.plan(model, 0.2, example_inputs=IMAGE, compensate=False)
    small = plan.apply()
    assert sum(isinstance(m, nn.BatchNorm2d) for m in small.modules()) == 5
    path = tmp_path / "small.onnx"
    plan.write(path)
    assert types(path).count("Conv") == 3
    assert not {"BatchNormalization", "Add"} & set(types(path))
    for x in (IMAGE, torch.cat([IMAGE, IMAGE.flip(0)]), IMAGE[:1]):
        assert gap(small(x), ran(path, x)) < 1e-5


def test_deploy_folds_all_but_the_original(tmp_path: Path) -> None:
    graphprune.deploy(
        net(), 0.2, out=tmp_path / "out.onnx", folder=tmp_path, data=IMAGE.repeat(8, 1, 1, 1),
        compensate=False, int8=False,
    )  # fmt: skip
    convolutions = {p.stem: types(p).count("Conv") for p in tmp_path.glob("*.onnx")}
    assert convolutions.pop("original") == 4
    assert set(convolutions.values()) == {3}


def test_a_file_that_cannot_be_folded_stays(tmp_path: Path) -> None:
    path = tmp_path / "plain.onnx"
    write_module(nn.Sequential(nn.Linear(6, 4), nn.ReLU()).eval(), ((torch.randn(2, 6),), {}), path)
    before = path.read_bytes()
    assert fold_file(path) == 0
    path.write_bytes(b"no model")
    assert fold_file(path) == 0
    assert (before, path.read_bytes()) == (before, b"no model")


def test_a_file_holds_no_traces_of_the_code_that_it_comes_from(tmp_path: Path) -> None:
    path = tmp_path / "model.onnx"
    net = nn.Sequential(nn.Linear(6, 8), nn.LayerNorm(8), nn.Linear(8, 4)).eval()
    write_module(net, ((torch.randn(2, 6),), {}), path)
    model = onnx.load(path)
    graph = model.graph
    for held in (graph, *graph.node, *graph.input, *graph.output, *graph.value_info):
        assert not [x.key for x in held.metadata_props if x.key.startswith(("pkg.", "namespace"))]
    assert b"File " not in path.read_bytes()
    assert graph.node[0].name  # names stay

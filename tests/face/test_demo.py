"""The demo: real data, an honest table, files that run."""

from __future__ import annotations

import re

import numpy as np
import onnxruntime
import torch

import graphprune
from graphprune import demo
from tests.face.conftest import Shown


def test_training_and_test_images_are_apart() -> None:
    (train, _), (test, labels) = demo.digits()
    assert len(train) + len(test) == 1797
    assert train.shape[1:] == test.shape[1:] == (1, 8, 8)
    assert set(labels.tolist()) == set(range(10))
    again, _ = demo.digits()
    assert torch.equal(train, again[0])


def test_the_network_has_the_size_of_a_demo() -> None:
    assert 100_000 <= sum(p.numel() for p in demo.DigitsNet().parameters()) <= 300_000


def test_accuracy_counts_hits() -> None:
    images, labels = torch.eye(4), torch.tensor([0, 1, 2, 0])
    assert demo.accuracy(torch.nn.Identity(), (images, labels)) == 0.75


def test_the_table_shows_before_and_after(shown: Shown) -> None:
    for label in ("parameters", "MACs", "accuracy", "coupled groups", "stem.0.weight[0]"):
        assert label in shown.text
    assert "removal equals masking" in shown.text
    row = re.search(r"parameters\s+([\d,]+)\s+([\d,]+)", shown.text)
    assert row is not None
    before, after = (int(number.replace(",", "")) for number in row.groups())
    assert before == sum(p.numel() for p in demo.DigitsNet().parameters())
    assert abs(after / before - 0.5) < 0.02


def test_compensation_keeps_what_plain_removal_loses(shown: Shown) -> None:
    label = r"{}\s+([\d.]+)%\s+([\d.]+)%"
    kept, plain = (
        re.search(label.format(row), shown.text)
        for row in ("accuracy, no data used", "without compensation")
    )
    assert kept is not None
    assert plain is not None
    assert kept.group(1) == plain.group(1), "of the same network"
    assert float(kept.group(2)) > float(plain.group(2)) + 10
    assert "inputs synthesised from batch-norm statistics" in shown.text


def test_fine_tuning_is_a_step_of_its_own(shown: Shown) -> None:
    found = re.search(r"accuracy after 1 epochs of fine-tuning: ([\d.]+)%", shown.text)
    assert found is not None
    assert float(found.group(1)) > 50, "one epoch of each is far above chance"
    assert shown.text.index("coupled groups") < found.start()


def test_exporters_keep_quiet(shown: Shown) -> None:
    assert "torch.onnx" not in shown.text
    assert "Warning" not in shown.text


def test_both_files_take_any_batch_and_agree(shown: Shown) -> None:
    images = demo.digits()[1][0][:5]
    program = torch.export.load(shown.folder / "digits-small.pt2").module()
    session = onnxruntime.InferenceSession(
        shown.folder / "digits-small.onnx", providers=["CPUExecutionProvider"]
    )
    with torch.no_grad():
        wanted = program(images).numpy()
    found = session.run(None, {session.get_inputs()[0].name: images.numpy()})[0]
    assert wanted.shape == (5, 10)
    np.testing.assert_allclose(found, wanted, atol=1e-4)


def test_the_plan_fits_a_fresh_network(shown: Shown) -> None:
    plan = graphprune.load_plan(shown.folder / "plan.json")
    small = plan.apply(demo.DigitsNet())
    program = torch.export.load(shown.folder / "digits-small.pt2")
    shapes = {name: tensor.shape for name, tensor in program.state_dict.items()}
    assert {name: p.shape for name, p in small.named_parameters()}.items() <= shapes.items()


def test_the_command_ends_well_and_names_its_files(shown: Shown) -> None:
    assert shown.code == 0
    assert "ONNX Runtime agrees" in " ".join(shown.text.split())  # a long path wraps
    names = sorted(path.name for path in shown.folder.iterdir())
    assert names == ["digits-small.onnx", "digits-small.pt2", "plan.json"]

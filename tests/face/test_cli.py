"""The command line: output, files, exit codes."""

from __future__ import annotations

import json
import logging
import runpy
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from typer.testing import CliRunner

import graphprune
from graphprune import cli, iterative
from graphprune.version import __version__

FACTORY = """
import torch
from torch import nn

class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.a, self.b = nn.Linear(6, 32), nn.Linear(32, 4)
    def forward(self, x):
        return self.b(torch.relu(self.a(x)))

def net():
    torch.manual_seed(0)
    return Net()
"""


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    (tmp_path / "factory_for_cli.py").write_text(FACTORY)
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(str(tmp_path))
    return tmp_path


def run(monkeypatch: pytest.MonkeyPatch, *args: str) -> int:
    monkeypatch.setattr(sys, "argv", ["graphprune", *args])
    try:
        cli.main()
    except SystemExit as stop:
        return int(stop.code or 0)
    return 0


MODEL = "factory_for_cli:net"
QUICK = ("--effort", "fast")


@pytest.mark.parametrize("suffix", [".pt", ".pt2", ".onnx"])
def test_shrink_writes_a_model(
    folder: Path, monkeypatch: pytest.MonkeyPatch, suffix: str, capsys: pytest.CaptureFixture[str]
) -> None:
    out = folder / f"small{suffix}"
    assert run(monkeypatch, "shrink", MODEL, *QUICK, "-o", str(out), "--plan", "plan.json") == 0
    assert "removal equals masking" in capsys.readouterr().out
    x = torch.randn(5, 6)  # any batch size
    if suffix == ".onnx":
        import onnxruntime

        session = onnxruntime.InferenceSession(out, providers=["CPUExecutionProvider"])
        assert session.run(None, {session.get_inputs()[0].name: x.numpy()})[0].shape == (5, 4)
    elif suffix == ".pt":
        assert torch.load(out, weights_only=False)(x).shape == (5, 4)
    else:
        assert torch.export.load(out).module()(x).shape == (5, 4)
    assert run(monkeypatch, "verify", MODEL, "--plan", "plan.json") == 0
    assert run(monkeypatch, "shrink", MODEL, *QUICK, "-o", str(out)) == 2
    assert "--force" in capsys.readouterr().err
    assert run(monkeypatch, "shrink", MODEL, *QUICK, "-o", str(out), "--force") == 0


def test_nothing_is_lost(
    folder: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(monkeypatch, "shrink", MODEL, *QUICK, "-o", "small.pt") == 0
    whole = (folder / "small.pt").read_bytes()
    assert run(monkeypatch, "shrink", "small.pt", *QUICK, "-o", "small.pt", "--force") == 2
    assert "is an input" in capsys.readouterr().err
    assert (folder / "small.pt").read_bytes() == whole
    (folder / "plan.json").write_text("mine")
    assert run(monkeypatch, "shrink", MODEL, *QUICK, "-o", "b.pt", "--plan", "plan.json") == 2
    assert (folder / "plan.json").read_text() == "mine"
    assert run(monkeypatch, "shrink", MODEL, *QUICK, "-o", "b.pt", "--plan", "no/plan.json") == 2
    assert run(monkeypatch, "demo", "--out", "plan.json") == 2
    assert not (folder / "b.pt").exists()


def test_a_factory_that_fails_is_no_traceback(
    folder: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    (folder / "broken_for_cli.py").write_text("def net():\n    raise OSError('no weights here')\n")
    assert run(monkeypatch, "report", "broken_for_cli:net") == 2
    assert "broken_for_cli:net() failed: OSError: no weights here" in capsys.readouterr().err
    assert run(monkeypatch, "report", MODEL, *QUICK, "--ratio", "2") == 2


def test_json_goes_to_stdout_and_text_to_stderr(
    folder: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(monkeypatch, "report", MODEL, *QUICK, "--ratio", "0.25", "--json") == 0
    captured = capsys.readouterr()
    assert json.loads(captured.out)["asked"] == 0.25
    assert "a.weight[0]" in captured.err


def test_exit_codes(
    folder: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(monkeypatch, "report", MODEL, *QUICK, "--keep", "a", "--ratio", "0.9") == 3
    assert run(monkeypatch, "report", "nowhere:net") == 2
    assert run(monkeypatch, "report", "factory_for_cli:missing") == 2
    assert run(monkeypatch, "report", "no_such_model_at_all") == 2
    assert run(monkeypatch, "report", "missing.pt") == 2
    assert run(monkeypatch, "report", MODEL, *QUICK, "--input-size", "2,x") == 2
    assert run(monkeypatch, "verify", MODEL, "--plan", "missing.json") == 2
    assert run(monkeypatch, "report", "--nonsense") == 2
    errors = capsys.readouterr().err
    assert errors.count("error: ") == 7
    assert "Traceback" not in errors


def test_verification_failure_is_exit_code_1(
    folder: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    from graphprune.frontends.torch import lift as lifting

    monkeypatch.setattr(lifting, "TORCH", replace(lifting.TORCH, tolerance=-1.0))
    assert run(monkeypatch, "shrink", MODEL, *QUICK, "-o", "small.pt") == 1
    assert not (folder / "small.pt").exists()
    assert "differs" in capsys.readouterr().err


def test_weights_are_loaded(
    folder: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    import factory_for_cli  # type: ignore[import-not-found]
    from safetensors.torch import save_file

    state = {name: torch.zeros_like(t) for name, t in factory_for_cli.net().state_dict().items()}
    save_file(state, "w.safetensors")
    torch.save(state, "w.pt")
    for weights in ("w.safetensors", "w.pt"):
        out = f"small-{weights}.pt"
        assert run(monkeypatch, "shrink", MODEL, *QUICK, "-o", out, "--weights", weights) == 0
        small = torch.load(out, weights_only=False)
        assert all(not p.any() for p in small.parameters())
    torch.save({"other": torch.zeros(1)}, "bad.pt")
    assert run(monkeypatch, "report", MODEL, *QUICK, "--weights", "bad.pt") == 2
    assert "does not fit" in capsys.readouterr().err


def test_text_in_a_pipe_is_plain(
    folder: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(monkeypatch, "report", MODEL, *QUICK) == 0
    said = capsys.readouterr().out
    assert said.isascii() and "" not in [line.strip() for line in said.splitlines()]
    assert any(line.startswith("time: ") and line.endswith(" s") for line in said.splitlines())
    assert run(monkeypatch, "sensitivity", MODEL, *QUICK) == 0
    assert capsys.readouterr().out.isascii()


def test_a_sweep_takes_its_ratios_by_either_name(
    folder: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    for given in (
        ("--at", "0.3,0.6"),
        ("--ratios", "0.3,0.6"),
        ("--ratios", ".3", "--ratios", ".6"),
    ):
        assert run(monkeypatch, "sweep", MODEL, "--compensate", "off", "--json", *given) == 0
        found = json.loads(capsys.readouterr().out)
        assert [point["asked"] for point in found["points"]] == [0.3, 0.6]
    assert run(monkeypatch, "sweep", MODEL, "--ratios", "a=0.3") == 2
    assert "as a whole" in capsys.readouterr().err


def test_inspect(
    folder: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(monkeypatch, "inspect", MODEL) == 0
    assert "group 0: 32 indices\n    a.weight[0], a.bias[0], b.weight[1]" in capsys.readouterr().out
    assert run(monkeypatch, "inspect", MODEL, "--why", "a", "b") == 0
    assert "aten.relu (relu)" in capsys.readouterr().out
    assert run(monkeypatch, "inspect", MODEL, "--layer", "c") == 2
    assert run(monkeypatch, "inspect", MODEL, "--json", "-") == 0
    assert len(json.loads(capsys.readouterr().out)["groups"]) == 1
    assert run(monkeypatch, "inspect", MODEL, "--dot", "a.dot", "--graphml", "a.graphml") == 0
    assert "aten.linear" in (folder / "a.dot").read_text()
    import networkx

    assert networkx.read_graphml(folder / "a.graphml").number_of_edges() > 2
    assert run(monkeypatch, "inspect", MODEL, "--dot", "a.dot", "--layer", "a", "--force") == 0


@pytest.mark.parametrize(
    ("args", "target"),
    [
        *[((c, MODEL, "-o", "x.pt"), "x.pt") for c in ("shrink", "compact", "factor", "sparsify")],
        (("shrink", MODEL, "-o", "new.pt", "--plan", "x.json"), "x.json"),
        (("deploy", MODEL, "-o", "x.onnx"), "x.onnx"),
        (("quantise", "given.onnx", "-o", "x.onnx"), "x.onnx"),
        *[((c, MODEL, "--html", "x.html"), "x.html") for c in ("report", "sensitivity", "sweep")],
        *[(("inspect", MODEL, f"--{k}", f"x.{k}"), f"x.{k}") for k in ("html", "dot")],
        *[(("inspect", MODEL, f"--{k}", "x"), "x") for k in ("graphml", "json")],
    ],
    ids=lambda given: " ".join(given) if isinstance(given, tuple) else "",
)  # fmt: skip
def test_no_command_replaces_an_output_unasked(
    folder: Path,
    args: tuple[str, ...],
    target: str,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    (folder / target).write_text("mine")
    assert run(monkeypatch, *args) == 2
    assert f"{target} exists: pass --force to replace it" in capsys.readouterr().err
    assert (folder / target).read_text() == "mine"


def test_the_package_is_a_command(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(sys, "argv", ["graphprune", "--version"])
    with pytest.raises(SystemExit) as stop:
        runpy.run_module("graphprune", run_name="__main__")
    assert not stop.value.code
    assert capsys.readouterr().out.strip() == f"graphprune {__version__}"


def test_criteria_with_data(
    folder: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    generator = np.random.default_rng(0)
    inputs = generator.normal(size=(40, 6)).astype(np.float32)
    labels = generator.integers(0, 4, 40)
    np.savez("data.npz", inputs=inputs, labels=labels)
    np.save("inputs.npy", inputs)
    torch.save((torch.tensor(inputs), torch.tensor(labels)), "data.pt")
    for data, importance in (("data.npz", "taylor"), ("data.pt", "snip"), ("inputs.npy", "wanda")):
        assert (
            run(monkeypatch, "report", MODEL, *QUICK, "--importance", importance, "--data", data)
            == 0
        )
    capsys.readouterr()
    for data, message in (
        ("inputs.npy", "holds no labels"),
        ("missing.npz", "there is no file missing.npz"),
        ("data.csv", "no .npy, .npz or .pt file, no folder"),
    ):
        assert (
            run(monkeypatch, "report", MODEL, *QUICK, "--importance", "taylor", "--data", data) == 2
        )
        assert message in capsys.readouterr().err


def test_several_budgets(
    folder: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    budget = ("--budget", "macs=0.3", "--budget", "params=0.5")
    assert run(monkeypatch, "report", MODEL, *QUICK, *budget, "--json") == 0
    found = json.loads(capsys.readouterr().out)
    assert found["params"][1] <= 0.5 * found["params"][0]
    assert run(monkeypatch, "report", MODEL, *QUICK, "--budget", "macs") == 2
    assert "macs=0.5" in capsys.readouterr().err


def test_the_command_line_says_what_it_wrote_and_how_to_load_it(
    folder: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(monkeypatch, "shrink", MODEL, *QUICK, "-o", "small.pt") == 0
    said = capsys.readouterr().out
    assert "wrote small.pt, 0.00" in said and "MB; load it with torch.load(" in said
    assert "\n\n" not in said  # no empty lines where a bar would be
    assert said.startswith("agreement: ")


def test_several_steps_and_where_they_stopped(
    folder: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    steps = ("--steps", "2", "--state", "state.pt", "--compensate", "off")
    assert run(monkeypatch, "shrink", MODEL, *steps, "-o", "small.pt") == 0
    said = capsys.readouterr().out
    assert "step 2 of 2, beside the model before it:" in said
    assert "wrote small.pt, 0.00142 ->" in said, "beside the original, not the step before"
    assert torch.load("small.pt", weights_only=False).a.out_features < 32
    assert run(monkeypatch, "shrink", MODEL, *steps, "-o", "again.pt") == 0
    assert run(monkeypatch, "shrink", MODEL, *steps, "-o", "b.pt", "--plan", "plan.json") == 2
    capsys.readouterr()

    def stops(*_: object) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(iterative, "planned", stops)
        Path("state.pt").unlink()
        assert run(patch, "shrink", MODEL, *steps, "-o", "c.pt") == 130
    assert "0 of 2 steps are kept in state.pt, and the same call goes" in capsys.readouterr().err

    from graphprune.commands import options

    monkeypatch.setattr(options.Planning, "opened", stops)
    assert run(monkeypatch, "report", MODEL) == 130
    assert "no file is left half written" in capsys.readouterr().err


def test_a_plan_of_another_model_is_refused(
    folder: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    plan = graphprune.plan(torch.nn.Sequential(torch.nn.Linear(6, 9), torch.nn.Linear(9, 2)), 0.5,
                           example_inputs=torch.randn(2, 6), compensate=False)  # fmt: skip
    plan.save("other.json")
    assert run(monkeypatch, "verify", MODEL, "--plan", "other.json") == 2
    assert "the plan was made for another model: its group 0 is " in capsys.readouterr().err
    assert run(monkeypatch, "shrink", MODEL, *QUICK, "-o", "a.pt", "--plan", "deep.json") == 0
    capsys.readouterr()
    Path("narrow.py").write_text(FACTORY.replace("6, 32", "5, 32"))  # it takes other inputs
    assert run(monkeypatch, "verify", "narrow:net", "--plan", "deep.json") == 2
    said = capsys.readouterr().err
    assert (
        "error: the plan does not fit Net: the model rejects" in said
        and len(said.splitlines()) == 1
    )


def test_the_shell_completes_commands() -> None:
    asked = {
        "_GRAPHPRUNE_COMPLETE": "complete_bash", "COMP_WORDS": "graphprune sw", "COMP_CWORD": "1"
    }  # fmt: skip
    found = CliRunner().invoke(cli.app, [], prog_name="graphprune", env=asked)
    assert found.output.split() == ["sweep"]


def test_quiet_and_verbose(
    folder: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    command = ("report", MODEL, "--compensate", "off", "--json")
    assert run(monkeypatch, "--quiet", *command) == 0
    shown = capsys.readouterr()
    assert json.loads(shown.out)["model"] == "Net" and shown.err == ""
    assert run(monkeypatch, "--verbose", "--quiet", *command) == 0
    assert "inputs assumed, as none were given: 2 x 6 float32" in capsys.readouterr().err
    assert run(monkeypatch, *command) == 0  # both last as long as the command they are given with
    shown = capsys.readouterr().err
    assert "of params removed" in shown and "of params go" not in shown
    assert not logging.getLogger("graphprune").handlers


def test_a_report_as_a_page(
    folder: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    command = ("report", MODEL, "--compensate", "off", "--html", "report.html")
    assert run(monkeypatch, *command) == 0
    assert "graphprune report factory_for_cli:net" in (folder / "report.html").read_text()
    assert "wrote report.html" in capsys.readouterr().out
    assert run(monkeypatch, *command) == 2
    assert run(monkeypatch, *command[:-1], "report.pdf") == 2


def test_python_takes_what_the_command_line_takes(folder: Path) -> None:
    np.save("inputs.npy", np.random.default_rng(0).normal(size=(120, 6)).astype(np.float32))
    (folder / "scores_for_cli.py").write_text(
        "import torch\n"
        "def first(weight, dim):\n    return -torch.arange(weight.shape[dim]).double()\n"
    )
    small = graphprune.shrink(
        MODEL, 0.5, data="inputs.npy", importance="scores_for_cli:first", compensate=False
    )
    assert graphprune.report_of(small).agreement.real

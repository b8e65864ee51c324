"""The command line. Human text goes to stderr where `--json` puts data on stdout.

Exit codes: 0 ok, 1 verification failed, 2 usage, file or model, 3 budget unreachable.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from graphprune.version import __version__

if TYPE_CHECKING:
    from rich.console import Console
    from torch import nn

    from graphprune.plans import Plan

app = typer.Typer(
    help="Shrink neural networks for deployment.", no_args_is_help=True, add_completion=False
)

Model = Annotated[
    str, typer.Argument(help="timm:NAME, torchvision:NAME, pkg.mod:factory, or a .pt or .onnx file")
]
Weights = Annotated[Path | None, typer.Option(help="state dict of the model, .safetensors or .pt")]
Ratio = Annotated[
    float | None, typer.Option(help="fraction to remove, 0 <= ratio < 1; a half unless told")
]
Of = Annotated[
    str,
    typer.Option(
        help="what the ratio speaks of: params, macs, channels, memory, latency, or a cost that an "
        "extension registers"
    ),
]
Budget = Annotated[
    list[str] | None,
    typer.Option(help="in place of --ratio, of several costs at least: macs=0.5"),
]
Importance = Annotated[
    str,
    typer.Option(
        help="auto, obs, l1, l2, group_norm, bn_scale, fpgm, random, mu-2sigma, synflow; with "
        "--data: taylor, snip, grasp, fisher, obd, activation, activation_variance, apoz, wanda, "
        "hrank; or pkg.mod:function"
    ),
]
Data = Annotated[
    str | None,
    typer.Option(help="calibration data: .npy, .npz or .pt file, or pkg.mod:factory"),
]
Compensate = Annotated[str, typer.Option(help="let what stays make up for it: auto, on or off")]
Effort = Annotated[str, typer.Option(help="auto, fast, balanced or best compensation; or seconds")]
Backend = Annotated[
    str, typer.Option(help="for latency: eager, compiled or onnxruntime; auto: eager for modules")
]
Allocation = Annotated[str, typer.Option(help="auto, uniform, global, isomorphic or erk")]
Keep = Annotated[list[str] | None, typer.Option(help="layers to leave alone; * matches any")]
RoundTo = Annotated[str, typer.Option(help="kept widths are multiples of this, or auto")]
Ratios = Annotated[
    list[str] | None,
    typer.Option(help="fraction of channels to remove from a layer, layer=0.3; * matches any"),
]
Limits = Annotated[
    list[str] | None,
    typer.Option(help="what a layer keeps at least (and at most): layer=16, layer=.2,.8"),
]
Passes = Annotated[
    str | None,
    typer.Option(help="other passes, with commas: names (see graphprune passes) or pkg.mod:Class"),
]
Extension = Annotated[
    list[str] | None,
    typer.Option(help="import a module that registers rules, criteria, costs, passes or frontends"),
]
Size = Annotated[str | None, typer.Option(help="shape of one input: 2,3,224,224")]
AsJson = Annotated[bool, typer.Option("--json", help="print data on stdout")]


def _version(wanted: bool) -> None:
    if wanted:
        typer.echo(f"graphprune {__version__}")
        raise typer.Exit


@app.callback()
def _common(
    version: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="print the version")
    ] = False,
) -> None:
    """Shrink neural networks for deployment."""


@app.command()
def shrink(
    model: Model,
    out: Annotated[Path, typer.Option("-o", "--out", help=".pt, .pt2 or .onnx")],
    ratio: Ratio = None,
    of: Of = "params",
    budget: Budget = None,
    importance: Importance = "auto",
    allocation: Allocation = "auto",
    keep: Keep = None,
    round_to: RoundTo = "auto",
    compensate: Compensate = "auto",
    effort: Effort = "auto",
    backend: Backend = "auto",
    data: Data = None,
    weights: Weights = None,
    input_size: Size = None,
    ratios: Ratios = None,
    limits: Limits = None,
    passes: Passes = None,
    extension: Extension = None,
    plan: Annotated[Path | None, typer.Option(help="also write the plan here")] = None,
    verify: Annotated[bool, typer.Option(help="check the result")] = True,
    force: Annotated[bool, typer.Option(help="replace an output that exists")] = False,
    as_json: AsJson = False,
) -> None:
    """Make a model smaller and write it."""
    from graphprune.core.errors import GraphPruneError
    from graphprune.core.files import check_target
    from graphprune.frontends.onnx import is_onnx

    _extended(extension)
    if is_onnx(model) and not is_onnx(out):
        raise GraphPruneError(f"{out}: an ONNX model is written as an .onnx file")
    if out.suffix not in (".pt", ".pt2", ".onnx"):
        raise GraphPruneError(f"{out}: the output is a .pt, .pt2 or .onnx file")
    given = {Path(name).resolve() for name in (model, weights) if name is not None}
    for target in (out, plan):
        own = target == out and is_onnx(model)  # read whole before it is replaced
        if target is not None and target.resolve() in given and not (own and force):
            hint = ", or pass --force to replace it" if own else ""
            raise GraphPruneError(f"{target} is an input: write the result elsewhere{hint}")
        if target is not None and target.exists() and not force:
            raise GraphPruneError(f"{target} exists: pass --force to replace it")
        if target is not None:
            check_target(target)
    made = _planned(
        model, weights, input_size, ratio, of, importance, allocation, keep, round_to, verify,
        budget, data,
        _options(compensate, effort, backend, ratios=ratios, limits=limits, passes=passes),
    )  # fmt: skip
    made.write(out)
    if plan is not None:
        made.save(plan)
    _print(made, as_json)


@app.command()
def report(
    model: Model,
    ratio: Ratio = None,
    of: Of = "params",
    budget: Budget = None,
    importance: Importance = "auto",
    allocation: Allocation = "auto",
    keep: Keep = None,
    round_to: RoundTo = "auto",
    compensate: Compensate = "auto",
    effort: Effort = "auto",
    backend: Backend = "auto",
    data: Data = None,
    weights: Weights = None,
    input_size: Size = None,
    ratios: Ratios = None,
    limits: Limits = None,
    passes: Passes = None,
    extension: Extension = None,
    as_json: AsJson = False,
) -> None:
    """Print what a plan would do; write nothing."""
    _extended(extension)
    made = _planned(
        model, weights, input_size, ratio, of, importance, allocation, keep, round_to, False,
        budget, data,
        _options(compensate, effort, backend, ratios=ratios, limits=limits, passes=passes),
    )  # fmt: skip
    _print(made, as_json)


@app.command()
def verify(
    model: Model,
    plan: Annotated[Path, typer.Option(help="a plan that was saved")],
    weights: Weights = None,
    extension: Extension = None,
    as_json: AsJson = False,
) -> None:
    """Apply a saved plan to a model and check the result."""
    from graphprune.models import load_model
    from graphprune.plans import load_plan

    _extended(extension)
    made = load_plan(plan)
    made.apply(load_model(model, weights))
    _print(made, as_json)


@app.command()
def inspect(
    model: Model,
    weights: Weights = None,
    input_size: Size = None,
    why: Annotated[
        tuple[str, str] | None, typer.Option(help="show what couples two layers")
    ] = None,
    layer: Annotated[str | None, typer.Option(help="only this layer; * matches any")] = None,
    dot: Annotated[str | None, typer.Option(help="write Graphviz here, - for stdout")] = None,
    graphml: Annotated[str | None, typer.Option(help="write GraphML here")] = None,
    extension: Extension = None,
    as_json: Annotated[str | None, typer.Option("--json", help="write JSON here")] = None,
) -> None:
    """Print the coupled groups of a model, or why two layers are coupled."""
    from graphprune import inspecting
    from graphprune.api import analyze
    from graphprune.core.files import write_whole
    from graphprune.models import load_model

    _extended(extension)
    deps = analyze(load_model(model, weights), _inputs(input_size))
    wanted: list[tuple[str | None, Callable[[Any], str]]] = [
        (dot, inspecting.as_dot),
        (graphml, inspecting.as_graphml),
        (as_json, inspecting.as_json),
    ]
    for target, view in wanted:
        if target == "-":
            typer.echo(view(deps), nl=False)
        elif target is not None:
            write_whole(target, view(deps).encode())
    if why is not None:
        typer.echo(inspecting.why_text(deps, *why), nl=False)
    elif not any(target for target, _ in wanted):
        typer.echo(inspecting.describe(deps, layer), nl=False)


@app.command()
def passes(extension: Extension = None) -> None:
    """List the passes, those of extensions too."""
    from graphprune.extensions import load_installed
    from graphprune.pipeline import PASSES
    from graphprune.planning import DEFAULT

    load_installed()
    _extended(extension)
    usual = {step.name for step in DEFAULT}
    width = max(map(len, PASSES))
    for name, kind in PASSES.items():
        line = (kind.__doc__ or "").strip().partition("\n")[0]
        typer.echo(f"{name:{width}}  {line}{'' if name in usual else ' (on request)'}")


@app.command()
def demo(
    out: Annotated[Path, typer.Option(help="folder for the results")] = Path("graphprune-demo"),
    ratio: Annotated[float, typer.Option(help="fraction of the parameters to remove")] = 0.5,
    epochs: Annotated[int, typer.Option(min=1, help="epochs of training")] = 10,
) -> None:
    """Train a small network on real digits, shrink it, and write the result."""
    from rich.console import Console

    from graphprune.demo import run

    run(out, ratio, epochs, Console())


def _inputs(size: str | None) -> Any:
    if size is None:
        return None
    import torch

    from graphprune.core.errors import GraphPruneError

    try:
        return torch.randn([int(part) for part in size.split(",")])
    except (ValueError, RuntimeError):
        raise GraphPruneError(f"--input-size is a shape such as 2,3,224,224, not {size}") from None


def _extended(names: list[str] | None) -> None:
    from graphprune.extensions import load_extension

    for name in names or ():
        load_extension(name)


def _numbers(given: list[str] | None, option: str, example: str) -> dict[str, Any]:
    """What an option says by name: whole numbers, fractions, or pairs of them."""
    from graphprune.core.errors import GraphPruneError

    out: dict[str, Any] = {}
    for item in given or ():
        name, _, text = item.rpartition("=")
        try:
            found = [int(x) if x.strip().isdecimal() else float(x) for x in text.split(",")]
        except ValueError:
            found = []
        if not name or not found:
            raise GraphPruneError(f"{option} is a name and a number, {example}, not {item}")
        out[name] = found[0] if len(found) == 1 else tuple(found)
    return out


def _planned(
    model: str,
    weights: Path | None,
    size: str | None,
    ratio: float | None,
    of: str,
    importance: str,
    allocation: str,
    keep: list[str] | None,
    round_to: str,
    verify: bool,
    budget: list[str] | None,
    data: str | None,
    options: dict[str, Any],
) -> Plan[nn.Module]:
    from graphprune.api import plan
    from graphprune.frontends.onnx import is_onnx
    from graphprune.models import function_named, load_data, load_model

    return plan(
        load_model(model, weights),
        ratio,
        of,
        budget=_numbers(budget, "--budget", "macs=0.5"),
        data=None if data is None else load_data(data, is_onnx(model)),
        example_inputs=_inputs(size),
        importance=function_named(importance) if ":" in importance else importance,
        allocation=allocation,
        keep=keep or (),
        round_to=int(round_to) if round_to.isdigit() else round_to,
        verify=verify,
        **options,
    )


def _options(
    compensate: str,
    effort: str,
    backend: str,
    ratios: list[str] | None,
    limits: list[str] | None,
    passes: str | None,
) -> dict[str, Any]:
    """Options of `plan` that the commands share."""
    from graphprune.core.errors import GraphPruneError

    if compensate not in ("auto", "on", "off"):
        raise GraphPruneError(f"--compensate is auto, on or off, not {compensate}")
    return {
        "compensate": {"on": True, "off": False}.get(compensate, "auto"),
        "effort": float(effort) if effort.replace(".", "", 1).isdigit() else effort,
        "backend": backend,
        "ratios": _numbers(ratios, "--ratios", "layer=0.3"),
        "limits": _numbers(limits, "--limits", "layer=16"),
        "passes": passes,
    }


def _print(made: Plan[Any], as_json: bool) -> None:
    from graphprune.report.report import show

    assert made.report is not None
    show(made.report, _console(stderr=as_json))
    if as_json:
        typer.echo(json.dumps(made.report.as_dict()))


def _console(stderr: bool) -> Console:
    from rich.console import Console

    return Console(stderr=stderr)


def main() -> None:
    """Run the command line; graphprune's own errors become one line and an exit code."""
    from graphprune.core.errors import BudgetError, GraphPruneError, VerifyError

    try:
        app()
    except GraphPruneError as error:
        typer.echo(f"error: {error}", err=True)
        codes = {VerifyError: 1, BudgetError: 3}
        sys.exit(next((c for kind, c in codes.items() if isinstance(error, kind)), 2))

"""Options that commands share, and the plan that they ask for."""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable
from dataclasses import dataclass, fields
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, TypeAlias, get_type_hints

import typer

if TYPE_CHECKING:
    from torch import nn

    from graphprune.plans import Plan

Model: TypeAlias = Annotated[
    str, typer.Argument(help="timm:NAME, torchvision:NAME, pkg.mod:factory, or a .pt or .onnx file")
]
Weights: TypeAlias = Annotated[
    Path | None, typer.Option(help="state dict of the model, .safetensors or .pt")
]
Extension: TypeAlias = Annotated[
    list[str] | None,
    typer.Option(help="import a module that registers rules, criteria, costs, passes or frontends"),
]
Data: TypeAlias = Annotated[
    str | None,
    typer.Option(help="calibration data: .npy, .npz, .pt, a folder of pictures, pkg.mod:factory"),
]
Size: TypeAlias = Annotated[str | None, typer.Option(help="shape of one input: 2,3,224,224")]
AsJson: TypeAlias = Annotated[bool, typer.Option("--json", help="print data on stdout")]
Out: TypeAlias = Annotated[Path, typer.Option("-o", "--out", help=".pt, .pt2 or .onnx")]
PlanFile: TypeAlias = Annotated[Path | None, typer.Option(help="also write the plan here")]
Keep: TypeAlias = Annotated[
    list[str] | None, typer.Option(help="layers to leave alone; * matches any")
]
Seed: TypeAlias = Annotated[int, typer.Option(help="for whatever is drawn")]
Verify: TypeAlias = Annotated[bool, typer.Option(help="check the result")]
Force: TypeAlias = Annotated[bool, typer.Option(help="replace an output that exists")]


@dataclass(frozen=True)
class Planning:
    """What the commands that make a plan have in common: an option of each field's name."""

    ratio: Annotated[
        float | None, typer.Option(help="fraction to remove, 0 <= ratio < 1; a half unless told")
    ] = None
    of: Annotated[
        str,
        typer.Option(
            help="what the ratio speaks of: params, macs, channels, memory, latency, or a cost "
            "that an extension registers"
        ),
    ] = "params"
    budget: Annotated[
        list[str] | None,
        typer.Option(help="in place of --ratio, of several costs at least: macs=0.5"),
    ] = None
    importance: Annotated[
        str,
        typer.Option(
            help="auto, obs, l1, l2, group_norm, bn_scale, fpgm, random, mu-2sigma, synflow; with "
            "--data: taylor, snip, grasp, fisher, obd, activation, activation_variance, apoz, "
            "wanda, hrank; or pkg.mod:function"
        ),
    ] = "auto"
    allocation: Annotated[str, typer.Option(help="auto, uniform, global, isomorphic or erk")] = (
        "auto"
    )
    keep: Keep = None
    round_to: Annotated[str, typer.Option(help="kept widths are multiples of this, or auto")] = (
        "auto"
    )
    compensate: Annotated[
        str, typer.Option(help="let what stays make up for it: auto, on or off")
    ] = "auto"
    effort: Annotated[
        str, typer.Option(help="auto, fast, balanced or best compensation; or seconds")
    ] = "auto"
    backend: Annotated[
        str,
        typer.Option(help="for latency: eager, compiled or onnxruntime; auto: eager for modules"),
    ] = "auto"
    data: Data = None
    weights: Weights = None
    input_size: Size = None
    ratios: Annotated[
        list[str] | None,
        typer.Option(help="fraction of channels to remove from a layer, layer=0.3; * matches any"),
    ] = None
    limits: Annotated[
        list[str] | None,
        typer.Option(help="what a layer keeps at least (and at most): layer=16, layer=.2,.8"),
    ] = None
    passes: Annotated[
        str | None,
        typer.Option(
            help="other passes, with commas: names (see graphprune passes) or pkg.mod:Class"
        ),
    ] = None
    seed: Seed = 0
    extension: Extension = None

    def opened(self, name: str) -> Any:
        """The model of a name, once the extensions are loaded."""
        from graphprune.models import load_model

        load_extensions(self.extension)
        return load_model(name, self.weights)

    def options(self) -> dict[str, Any]:
        """The options of `graphprune.plan`, ratio and cost apart."""
        effort = self.effort
        return {
            "budget": numbers(self.budget, "--budget", "macs=0.5"),
            "data": self.data,
            "example_inputs": inputs_of(self.input_size),
            "importance": self.importance,
            "allocation": self.allocation,
            "keep": self.keep or (),
            "round_to": whole(self.round_to),
            "compensate": switched(self.compensate),
            "effort": float(effort) if effort.replace(".", "", 1).isdecimal() else effort,
            "backend": self.backend,
            "ratios": numbers(self.ratios, "--ratios", "layer=0.3"),
            "limits": numbers(self.limits, "--limits", "layer=16"),
            "passes": self.passes,
            "seed": self.seed,
        }

    def plan(self, name: str, verify: bool = True) -> Plan[nn.Module]:
        """The plan for the model of a name."""
        from graphprune.api import plan

        model = self.opened(name)
        return plan(model, self.ratio, self.of, verify=verify, **self.options())


def planning(command: Callable[..., None]) -> Callable[..., None]:
    """Give a command the options of `Planning`; it takes them as one argument, `asked`."""
    own = inspect.signature(command, eval_str=True)
    hints = get_type_hints(Planning, include_extras=True)
    shared = [
        inspect.Parameter(
            field.name, inspect.Parameter.KEYWORD_ONLY, default=field.default,
            annotation=hints[field.name],
        )
        for field in fields(Planning)
    ]  # fmt: skip

    def run(**given: Any) -> None:
        asked = Planning(**{field.name: given.pop(field.name) for field in fields(Planning)})
        command(asked=asked, **given)

    functools.update_wrapper(run, command)
    first, *others = (
        parameter.replace(kind=inspect.Parameter.KEYWORD_ONLY)
        for name, parameter in own.parameters.items()
        if name != "asked"
    )
    parameters = [first, *shared, *others]
    setattr(run, "__signature__", own.replace(parameters=parameters))  # noqa: B010
    run.__annotations__ = {parameter.name: parameter.annotation for parameter in parameters}
    del run.__wrapped__  # type: ignore[attr-defined]
    return run


def load_extensions(names: list[str] | None) -> None:
    """Import the modules that `--extension` names."""
    from graphprune.extensions import load_extension

    for name in names or ():
        load_extension(name)


def inputs_of(size: str | None) -> Any:
    """One input of a shape that is given as text; None where none is given."""
    if size is None:
        return None
    import torch

    from graphprune.core.errors import GraphPruneError

    try:
        shape = [int(part) for part in size.split(",")]
        return torch.randn(shape, generator=torch.Generator().manual_seed(0))
    except (ValueError, RuntimeError):
        raise GraphPruneError(f"--input-size is a shape such as 2,3,224,224, not {size}") from None


def switched(compensate: str) -> bool | str:
    """What `--compensate` says, as the Python calls take it."""
    from graphprune.core.errors import GraphPruneError

    known: dict[str, bool | str] = {"auto": "auto", "on": True, "off": False}
    if compensate not in known:
        raise GraphPruneError(f"--compensate is auto, on or off, not {compensate}")
    return known[compensate]


def whole(text: str) -> int | str:
    """A whole number, or the word that stands for one."""
    return int(text) if text.isdecimal() else text


def numbers(given: list[str] | None, option: str, example: str) -> dict[str, Any]:
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

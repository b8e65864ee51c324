"""Sets of models that the benchmarks run on, by name: `timm:resnet18`, `hf:bert`, `plain:lstm`."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

from zoo import diffusion, hf, plain, vision

SETS: dict[str, Callable[[], list[str]]] = {
    "torchvision": vision.torchvision_names,
    "timm": vision.timm_modules,
    "families": vision.timm_families,
    "smp": vision.smp_names,
    "hf": hf.names,
    "diffusers": diffusion.names,
    "plain": plain.names,
    **{part: partial(vision.torchvision_names, part) for part in vision.PARTS},
}


def names_of(entries: list[str]) -> list[str]:
    """The models of sets, and models named one by one."""
    return [n for entry in entries for n in (SETS[entry]() if entry in SETS else [entry])]


def build(name: str) -> tuple[Any, Any]:
    """The model of a name, with random weights, in eval mode, and its inputs.

    Inputs are None where graphprune is to find them.
    """
    library, _, rest = name.partition(":")
    if library == "timm":
        return vision.build_timm(rest), None
    if library == "smp":
        return vision.build_smp(rest), None
    if library == "hf":
        return hf.build(rest), None
    if library == "diffusers":
        return diffusion.build(rest)
    if library == "plain":
        return plain.build(rest)
    return vision.build_torchvision(rest)

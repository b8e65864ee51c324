"""Image models of torchvision, timm and segmentation-models-pytorch."""

from __future__ import annotations

import re
from collections.abc import Callable
from itertools import product
from typing import Any

PARTS = ("segmentation", "detection", "video", "optical_flow")
_SIDE = 128  # pixels, where a model of timm takes any image size
_SMP = ("Unet", "FPN", "DeepLabV3Plus")
_ENCODERS = ("resnet18", "mobilenet_v2", "efficientnet-b0", "mit_b0")


def torchvision_names(part: str | None = None) -> list[str]:
    """The models of one part of torchvision (segmentation, detection, …), or its classifiers."""
    import torchvision

    models = torchvision.models
    module = models if part is None else getattr(models, part)
    return [f"torchvision:{name}" for name in models.list_models(module=module)]


def build_torchvision(name: str) -> tuple[Any, Any]:
    """A model of torchvision, and inputs where it takes more than one image."""
    import torch
    import torchvision

    options: dict[str, Any] = {"weights": None}
    if name in ("googlenet", "inception_v3"):
        options["init_weights"] = False
    part = next((p for p in PARTS if f"torchvision:{name}" in torchvision_names(p)), None)
    if part in ("segmentation", "detection"):
        options["weights_backbone"] = None
    example = None
    if part == "optical_flow":
        example = (torch.randn(2, 3, 128, 128), torch.randn(2, 3, 128, 128))
    return torchvision.models.get_model(name, **options).eval(), example


def timm_modules() -> list[str]:
    """The smallest variant of each of timm's model modules."""
    return _smallest(lambda module, name: module)


def timm_families() -> list[str]:
    """The smallest variant of each architecture that a module of timm names.

    An architecture is told by the first word of its name and that word's version: `convnext` and
    `convnextv2`, `resnet` and `resnext`.
    """

    def family(module: str, name: str) -> str:
        found = re.match(r"[a-z]+(?:v\d+)?", name)
        return f"{module}.{found[0] if found else name}"

    return _smallest(family)


def _smallest(family: Callable[[str, str], str]) -> list[str]:
    """The variant with the fewest parameters of each family, small ones first.

    Parameters are counted on the meta device.
    """
    import timm
    import torch
    from timm.models import _registry

    chosen: dict[str, tuple[int, str]] = {}
    for name in timm.list_models():
        key = family(_registry._model_to_module[name], name)
        try:
            with torch.device("meta"):
                size = sum(p.numel() for p in timm.create_model(name).parameters())
        except Exception:  # it computes with its weights while it is made
            size = sum(p.numel() for p in timm.create_model(name).parameters())
        chosen[key] = min(chosen.get(key, (size, name)), (size, name))
    return [f"timm:{name}" for _, name in sorted(chosen.values())]


def build_timm(name: str) -> Any:
    """A model of timm; one that takes images of any size says that it was made for small ones."""
    import timm
    import torch

    model = timm.create_model(name).eval()
    cfg = dict(model.pretrained_cfg)
    channels, *sides = cfg["input_size"]
    if cfg.get("fixed_input_size") or min(sides) <= _SIDE:
        return model
    try:
        with torch.no_grad():
            model(torch.randn(2, channels, _SIDE, _SIDE))
        cfg["input_size"] = (channels, _SIDE, _SIDE)
        model.pretrained_cfg = cfg
    except Exception:  # it does not after all
        return timm.create_model(name).eval()
    return model


def smp_names() -> list[str]:
    """Decoders of segmentation-models-pytorch on encoders of four families."""
    return [f"smp:{kind}.{encoder}" for kind, encoder in product(_SMP, _ENCODERS)]


def build_smp(name: str) -> Any:
    """A model of segmentation-models-pytorch without pretrained weights."""
    import segmentation_models_pytorch as smp

    kind, _, encoder = name.partition(".")
    return getattr(smp, kind)(encoder, encoder_weights=None, classes=5).eval()

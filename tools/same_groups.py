"""The same groups both ways: a module's coupled groups beside those of its ONNX exports.

Exporters fold batch norms, rename and transpose. So a group is told by its size and by the weights
of two dimensions or more that hold it: their lengths, in any order.
"""

from __future__ import annotations

from collections import Counter
from typing import Any, TypeAlias

import torch

import graphprune
from graphprune.core.groups import Dependencies, Group
from graphprune.models import load_model

Weight: TypeAlias = "tuple[tuple[int, ...], int]"
Signature: TypeAlias = "tuple[int, tuple[Weight, ...]]"

MODELS = """
    alexnet vgg11_bn resnet18 resnet50 resnext50_32x4d wide_resnet50_2 densenet121 squeezenet1_1
    googlenet inception_v3 mobilenet_v2 mobilenet_v3_small mobilenet_v3_large mnasnet1_0
    shufflenet_v2_x1_0 efficientnet_b0 efficientnet_v2_s regnet_x_400mf regnet_y_400mf convnext_tiny
    vit_b_16 swin_t
    timm:vit_tiny_patch16_224 timm:deit_tiny_patch16_224 timm:swin_tiny_patch4_window7_224
    timm:mixer_s16_224 timm:resmlp_12_224 timm:gmlp_s16_224 timm:convmixer_768_32
    timm:poolformer_s12 timm:ghostnet_100 timm:hardcorenas_a timm:mobileone_s0 timm:repvgg_a0
    timm:res2net50_26w_4s timm:rexnet_100 timm:seresnet50 timm:skresnet18 timm:resnest14d
    timm:cspresnet50 timm:dla34 timm:hrnet_w18_small timm:efficientformer_l1 timm:levit_128s
    timm:xcit_nano_12_p16_224 timm:beit_base_patch16_224 timm:cait_xxs24_224 timm:crossvit_tiny_240
    timm:pit_ti_224 timm:tinynet_e timm:lcnet_050 timm:fbnetc_100
"""


def signature(group: Group) -> Signature:
    """What tells a group in either form."""
    held: Counter[tuple[int, ...]] = Counter()
    for value in {member.weight: None for member in group.members}:
        if len(value.shape) > 1:
            held[tuple(sorted(size for size in value.shape if size > 1))] += 1
    return group.size, tuple(sorted(held.items()))


def signatures(deps: Dependencies) -> Counter[Signature]:
    """All groups that a weight of two dimensions or more holds."""
    found = (signature(group) for group in deps.groups)
    return Counter(item for item in found if item[1])


def compared(module: Dependencies, exported: Dependencies) -> str:
    """`identical`, `same sizes`, or what either side has alone."""
    a, b = signatures(module), signatures(exported)
    if a == b:
        return "identical"
    only = [list(x.elements()) for x in (a - b, b - a)]
    sizes = [sorted(size for size, _ in side) for side in only]
    if sizes[0] == sizes[1]:
        return f"same sizes ({len(sizes[0])} of {a.total()} held by other weights)"
    return f"module alone {_short(sizes[0])}, file alone {_short(sizes[1])} of {a.total()}"


def _short(sizes: list[int]) -> str:
    counts = Counter(sizes)
    text = ", ".join(f"{n} x {size}" if n > 1 else str(size) for size, n in counts.items())
    return text[:80] or "nothing"


def both_ways(name: str, exporter: str, export: Any) -> str:
    """Compare one model with one of its exports."""
    torch.manual_seed(0)
    module = load_model(name)
    size = (getattr(module, "pretrained_cfg", None) or {}).get("input_size", (3, 224, 224))
    image = torch.randn(2, *size)
    found = export(module, image, exporter)
    return compared(graphprune.analyze(module, image), graphprune.analyze(found))

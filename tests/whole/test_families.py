"""Real architectures, with no option set. Slow: run with `pytest -m slow`."""

from __future__ import annotations

import warnings

import pytest
import torch
from torch import nn
from torch.utils import _pytree as pytree

import graphprune
from graphprune.models import load_model

FAMILIES = [
    "torchvision:resnet18", "torchvision:resnext50_32x4d", "torchvision:densenet121",
    "torchvision:mobilenet_v3_small", "torchvision:efficientnet_b0", "torchvision:regnet_y_400mf",
    "torchvision:shufflenet_v2_x0_5", "torchvision:squeezenet1_1", "torchvision:vit_b_32",
    "torchvision:swin_t", "torchvision:convnext_tiny", "torchvision:googlenet",
    "timm:vit_tiny_patch16_224", "timm:levit_384_s8", "timm:mobilevit_s", "timm:coat_lite_small",
    "timm:xcit_nano_12_p8_224", "timm:nf_regnet_b0", "timm:sequencer2d_s", "timm:skresnet18",
    "timm:gmlp_s16_224", "timm:hrnet_w18", "timm:eva02_small_patch14_224", "timm:volo_d1_224",
]  # fmt: skip


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("name", FAMILIES)
def test_half_of_the_parameters_go(name: str) -> None:
    torch.manual_seed(0)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        model: nn.Module = load_model(name)
        plan = graphprune.plan(model, 0.5)
        small = plan.apply()
    assert plan.report.achieved == pytest.approx(0.5, abs=0.01)
    assert plan.report.verification.difference < 1e-11
    args, kwargs = plan.inputs
    with torch.no_grad():
        outputs = [pytree.tree_leaves(m(*args, **kwargs)) for m in (model, small)]
    assert [y.shape for y in outputs[0]] == [y.shape for y in outputs[1]]

"""Example inputs, found from the model itself.

In this order: what timm and Hugging Face models say of themselves, an image-size attribute, and
else the first layer that holds weights, with a few likely sizes. A candidate counts if the model
runs on it, which is tried on fake tensors.
"""

from __future__ import annotations

import inspect
from collections.abc import Iterator, Mapping
from typing import Any

import torch
from torch import nn
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.nn.modules.conv import _ConvNd
from torch.utils import _pytree as pytree

from graphprune.errors import GraphPruneError, LiftError
from graphprune.frontends.torch import Inputs, preserved, quiet

BATCH = 2  # a batch of one could not be told from other dimensions of length one
_SIDES = (224, 32, 28, 64, 8, 16, 128, 256, 299, 384, 512, 96, 48)
_STEPS = (128, 1024, 16000, 32, 16)
_TOKENS = 16


def find_inputs(model: nn.Module) -> Inputs:
    """Inputs that a model accepts.

    Args:
        model: Any module.

    Returns:
        Positional and keyword arguments, a batch of two.

    Raises:
        LiftError: Nothing that was tried runs; the message shows the line to type.
    """
    last = "no layer tells what goes in"
    second_best: Inputs | None = None
    for inputs in _candidates(model):
        reason = rejects(model, inputs)
        if reason is None and rejects(model, inputs, training=True) is None:
            return inputs
        if reason is None:  # too small for an auxiliary head, perhaps
            second_best = second_best or inputs
        else:
            last = reason
    if second_best is not None:
        return second_best
    names = ", ".join(
        name
        for name, p in inspect.signature(model.forward).parameters.items()
        if p.default is inspect.Parameter.empty and p.kind is not inspect.Parameter.VAR_KEYWORD
    )
    raise LiftError(
        f"no example inputs could be found for {type(model).__name__}.forward({names}); the last "
        f"ones tried failed with: {last}\nPass them: "
        "graphprune.shrink(model, ratio=0.5, example_inputs=(torch.randn(2, 3, 224, 224),))"
    )


def rejects(model: nn.Module, inputs: Inputs, training: bool = False) -> str | None:
    """Why a model does not run on inputs, in eval or training mode, or None if it does."""
    fake = FakeTensorMode(allow_non_fake_inputs=True)
    args, kwargs = pytree.tree_map_only(torch.Tensor, fake.from_tensor, inputs)
    with preserved(model), torch.no_grad(), quiet():
        model.train(training)
        try:
            with fake:
                model(*args, **kwargs)
        except Exception as error:
            if _needs_values(error):
                return None  # it reads values, which fake tensors lack; its shapes were accepted
            return f"{type(error).__name__}: {str(error).splitlines()[0] if str(error) else ''}"
    return None


def _needs_values(error: Exception) -> bool:
    name = type(error).__name__
    return "DataDependent" in name or "DynamicOutput" in name or "data-dependent" in str(error)


def _candidates(model: nn.Module) -> Iterator[Inputs]:
    device, dtype = _place(model)
    config = getattr(model, "pretrained_cfg", None) or getattr(model, "default_cfg", None)
    size = config.get("input_size") if isinstance(config, dict) else None
    if size is not None:
        yield (torch.randn(BATCH, *size, device=device, dtype=dtype),), {}
    if hasattr(model, "config") and hasattr(model, "main_input_name"):
        yield from _from_config(model, device, dtype)
    for inputs in _from_layers(model):
        yield pytree.tree_map_only(
            torch.Tensor,
            lambda x: x.to(device, dtype) if x.is_floating_point() else x.to(device),
            inputs,
        )


def _place(model: nn.Module) -> tuple[torch.device, torch.dtype]:
    for tensor in [*model.parameters(), *model.buffers()]:
        if tensor.is_floating_point():
            return tensor.device, tensor.dtype
    return torch.device("cpu"), torch.float32


# --- Hugging Face -----------------------------------------------------------------------------


def _from_config(model: Any, device: torch.device, dtype: torch.dtype) -> Iterator[Inputs]:
    config = model.config
    ids = _tokens(config, device)
    pixels = _pixels(config, device, dtype)
    given: dict[str, Any] = {}
    names = inspect.signature(model.forward).parameters
    if "input_ids" in names:
        given["input_ids"] = ids
    if "pixel_values" in names:
        given["pixel_values"] = pixels
    if getattr(config, "is_encoder_decoder", False) and "decoder_input_ids" in names:
        given["decoder_input_ids"] = ids
    if hasattr(config, "use_cache"):
        given["use_cache"] = False  # a cache is no tensor that could be captured
    if len(given) > 1 or "use_cache" not in given:
        yield (), given
    yield (), {model.main_input_name: pixels if "pixel" in model.main_input_name else ids}
    try:
        yield (), dict(model.dummy_inputs)
    except Exception:
        return


def _tokens(config: Any, device: torch.device) -> torch.Tensor:
    text = getattr(config, "text_config", config)
    vocabulary = getattr(text, "vocab_size", None) or 2
    return torch.arange(BATCH * _TOKENS, device=device).view(BATCH, _TOKENS) % vocabulary


def _pixels(config: Any, device: torch.device, dtype: torch.dtype) -> torch.Tensor:
    vision = getattr(config, "vision_config", config)
    side = getattr(vision, "image_size", None) or 224
    height, width = side if isinstance(side, list | tuple) else (side, side)
    channels = getattr(vision, "num_channels", 3)
    return torch.randn(BATCH, channels, height, width, device=device, dtype=dtype)


# --- first layers -----------------------------------------------------------------------------


def _from_layers(model: nn.Module) -> Iterator[Inputs]:
    sides = [*_sides_named(model), *_SIDES]
    for module in model.modules():
        if isinstance(module, _ConvNd):
            spatial = len(module.kernel_size)
            grown = {1: _STEPS, 2: sides, 3: (16, 32, 112, 8)}[spatial]
            yield from (_floats(module.in_channels, *[side] * spatial) for side in grown)
            return
        if isinstance(module, nn.Embedding):
            yield (torch.arange(BATCH * _TOKENS).view(BATCH, _TOKENS) % module.num_embeddings,), {}
            return
        if isinstance(module, nn.RNNBase):
            yield _floats(_TOKENS, module.input_size)
            return
        if isinstance(module, nn.MultiheadAttention):
            yield _floats(_TOKENS, module.embed_dim)
            return
        if isinstance(module, nn.Linear):
            yield from _before_linear(module.in_features)
            return
        if isinstance(module, nn.LayerNorm):
            yield _floats(_TOKENS, *module.normalized_shape)


def _before_linear(features: int) -> Iterator[Inputs]:
    yield _floats(features)
    yield _floats(_TOKENS, features)
    for channels in (1, 3):
        side = round((features / channels) ** 0.5)
        if channels * side * side == features:
            yield _floats(channels, side, side)


def _sides_named(model: nn.Module) -> list[int]:
    found = []
    for module in model.modules():
        for name in ("image_size", "img_size", "input_size", "resolution"):
            held = getattr(module, name, None)
            held = held[0] if isinstance(held, tuple | list) and held else held
            if isinstance(held, int) and held > 7 and held not in found:
                found.append(held)
    return found


def _floats(*shape: int) -> Inputs:
    return (torch.randn(BATCH, *shape),), {}


# --- inputs as plain data -----------------------------------------------------------------------


def describe(inputs: Inputs) -> Any:
    """Example inputs as plain data: shapes and types of tensors, other values as they are."""

    def one(leaf: Any) -> Any:
        if isinstance(leaf, torch.Tensor):
            high = None if leaf.is_floating_point() or not leaf.numel() else int(leaf.max()) + 1
            kind = str(leaf.dtype).removeprefix("torch.")
            return {"shape": list(leaf.shape), "dtype": kind, "high": high}
        if leaf is None or isinstance(leaf, int | float | str | bool):
            return {"value": leaf}
        raise GraphPruneError(
            f"example inputs with a {type(leaf).__name__} cannot be saved with a plan"
        )

    leaves, spec = pytree.tree_flatten(inputs)
    return {"spec": pytree.treespec_dumps(spec), "leaves": [one(leaf) for leaf in leaves]}


def restore(data: Any) -> Inputs:
    """Example inputs of the described shapes and types."""
    generator = torch.Generator().manual_seed(0)

    def one(leaf: Mapping[str, Any]) -> Any:
        if "value" in leaf:
            return leaf["value"]
        dtype: torch.dtype = getattr(torch, leaf["dtype"])
        if dtype.is_floating_point:
            return torch.randn(leaf["shape"], generator=generator).to(dtype)
        high = max(leaf["high"] or 2, 1)
        return torch.randint(0, high, leaf["shape"], generator=generator).to(dtype)

    args, kwargs = pytree.tree_unflatten(
        [one(leaf) for leaf in data["leaves"]], pytree.treespec_loads(data["spec"])
    )
    return tuple(args), dict(kwargs)

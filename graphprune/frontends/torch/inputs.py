"""Example inputs, found from the model itself.

In this order: what timm and Hugging Face models say of themselves, an image-size attribute, and
else the first layer that holds weights, with sizes that the model's own numbers fix and a few
likely ones (`sizes`). A candidate counts if the model runs on it, which is tried on fake tensors.
"""

from __future__ import annotations

import inspect
from collections.abc import Iterable, Iterator, Mapping, Sequence
from itertools import product
from typing import Any

import numpy as np
import torch
from torch import nn
from torch.nn.modules.conv import _ConvNd
from torch.utils import _pytree as pytree

from graphprune.core.errors import LiftError
from graphprune.core.program import Inputs
from graphprune.frontends.torch.rejects import rejects
from graphprune.frontends.torch.sizes import images, positions
from graphprune.statistics.batches import check_finite

BATCH = 2  # a batch of one could not be told from other dimensions of length one
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
    if type(model).forward is nn.Module.forward:
        raise LiftError(
            f"{type(model).__name__} has no forward: pass the module that calls the layers in it"
        )
    last = "no layer tells what goes in"
    tried = iter(candidates(model))
    for inputs in tried:
        reason = rejects(model, inputs)
        if reason is None:
            return trained(model, inputs, tried)
        last = reason
    needed = [
        name
        for name, p in inspect.signature(model.forward).parameters.items()
        if p.default is inspect.Parameter.empty and p.kind is not inspect.Parameter.VAR_KEYWORD
    ]
    names, each = ", ".join(needed), "torch.randn(2, 3, 224, 224)"
    line = ", ".join([each] * len(needed)) if len(needed) > 1 else f"{each},"
    example = f"({line})"
    if hasattr(model, "config") and isinstance(getattr(model, "main_input_name", None), str):
        example = f'{{"{model.main_input_name}": ..., and what else it needs}}'
    raise LiftError(
        f"no example inputs could be found for {type(model).__name__}.forward({names}); the last "
        f"ones tried failed with: {last}\nPass them: "
        f"graphprune.shrink(model, ratio=0.5, example_inputs={example})"
    )


def trained(model: nn.Module, found: Inputs, others: Iterable[Inputs]) -> Inputs:
    """Inputs that training mode accepts too, where there are any; else those that were found.

    An auxiliary head may need larger ones. What fails in the same words is no matter of sizes:
    detectors train with targets only.

    Args:
        model: Any module.
        found: Inputs that it accepts in eval mode.
        others: Further ones that it may accept.
    """
    before = rejects(model, found, training=True)
    if before is None:
        return found
    for inputs in others:
        if _elements(inputs) <= _elements(found):
            continue
        reason = rejects(model, inputs, training=True)
        if reason == before:
            break
        if reason is None and rejects(model, inputs) is None:
            return inputs
    return found


def _elements(inputs: Inputs) -> int:
    return sum(x.numel() for x in pytree.tree_leaves(inputs) if isinstance(x, torch.Tensor))


def candidates(model: nn.Module) -> Iterator[Inputs]:
    """Inputs that a model may accept, a batch of two, the likeliest first."""
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
    names = inspect.signature(model.forward).parameters
    ids = _tokens(config, device)
    known: dict[str, list[torch.Tensor]] = {
        "input_ids": [*_around_images(config, ids), ids],
        "decoder_input_ids": [ids],
        "pixel_values": [_floats_like(s, device, dtype) for s in _pixels(config)],
        "input_features": [_floats_like(s, device, dtype) for s in _features(config)],
        "input_values": [_floats_like(s, device, dtype) for s in _samples(config)],
        "past_values": [_floats_like(s, device, dtype) for s in _series(config)],
    }
    if not getattr(config, "is_encoder_decoder", False):
        del known["decoder_input_ids"]
    wanted = [name for name in known if name in names and known[name]]
    # A cache is no tensor that could be captured.
    cache = {"use_cache": False} if _mentions(config, "use_cache") else {}
    for chosen in (wanted, [name for name in wanted if name == model.main_input_name]):
        for tensors in product(*(known[name] for name in chosen)):
            yield (), {**dict(zip(chosen, tensors, strict=True)), **cache}
    if "attention_mask" in names and "input_ids" in wanted:  # some make none while traced
        for tensors in product(*(known[name] for name in wanted)):
            inputs = dict(zip(wanted, tensors, strict=True))
            mask = torch.ones_like(inputs["input_ids"])
            yield (), {**inputs, "attention_mask": mask, **cache}
    try:
        yield (), {**model.dummy_inputs, **cache}
    except Exception:
        return


def _mentions(config: Any, name: str) -> bool:
    """Whether a config, or one that it holds, has an attribute."""
    inner = [held for held in vars(config).values() if hasattr(held, "to_dict")]
    return any(hasattr(held, name) for held in (config, *inner))


def _within(config: Any, *names: str, default: Any = None) -> Any:
    """The first of some attributes that a config, or one that it holds, has."""
    inner = [held for held in vars(config).values() if hasattr(held, "to_dict")]
    for held in (config, *inner):
        for name in names:
            found = getattr(held, name, None)
            if found is not None:
                return found
    return default


def _floats_like(shape: Sequence[int], device: torch.device, dtype: torch.dtype) -> torch.Tensor:
    return torch.randn(*shape, device=device, dtype=dtype)


def _features(config: Any) -> list[tuple[int, ...]]:
    """Spectrograms: `batch x mel bins x time`, or time first."""
    bins = _within(config, "num_mel_bins", "input_feat_per_channel", "feature_size", default=80)
    positions = _within(config, "max_source_positions", default=None)
    steps = [2 * positions] if positions else [128, 1024]
    return [s for n in steps for s in ((BATCH, bins, n), (BATCH, n, bins))]


def _samples(config: Any) -> list[tuple[int, ...]]:
    """Spectrograms of a fixed length, or a second of speech and less."""
    bins, length = _within(config, "num_mel_bins"), _within(config, "max_length")
    fixed = [(BATCH, length, bins)] if isinstance(bins, int) and isinstance(length, int) else []
    return [*fixed, (BATCH, 4000), (BATCH, 16000)]


def _series(config: Any) -> list[tuple[int, ...]]:
    """Series of as many numbers a step as a config tells."""
    steps = _within(config, "context_length")
    channels = _within(config, "num_input_channels", default=1)
    return [(BATCH, steps, channels)] if isinstance(steps, int) else []


def _tokens(config: Any, device: torch.device) -> torch.Tensor:
    text = getattr(config, "text_config", config)
    vocabulary = getattr(text, "vocab_size", None) or 2
    return torch.arange(BATCH * _TOKENS, device=device).view(BATCH, _TOKENS) % vocabulary


def _around_images(config: Any, ids: torch.Tensor) -> list[torch.Tensor]:
    """Tokens behind those that stand for an image, where a config tells which and how many."""
    token = _within(config, "image_token_id", "image_token_index")
    number = _within(config, "image_seq_length", "mm_tokens_per_image")
    if not (isinstance(token, int) and isinstance(number, int)):
        return []
    return [torch.cat([torch.full_like(ids[:, :1], token).expand(-1, number), ids], 1)]


def _pixels(config: Any) -> list[tuple[int, ...]]:
    """Images, and clips of them where the config tells a number of frames."""
    side = _within(config, "image_size", "input_size", default=224)
    height, width = side if isinstance(side, list | tuple) else (side, side)
    channels = _within(config, "num_channels", "in_channels", "in_chans", default=3)
    frames = _within(config, "num_frames")
    clip = [(BATCH, frames, channels, height, width)] if isinstance(frames, int) else []
    return [*clip, (BATCH, channels, height, width)]


# --- first layers -----------------------------------------------------------------------------


def _from_layers(model: nn.Module) -> Iterator[Inputs]:
    for module in model.modules():
        if isinstance(module, _ConvNd):
            yield from (_floats(*shape) for shape in images(model, module))
            return
        if isinstance(module, nn.Embedding):
            for length in (_TOKENS, *positions(model, module.embedding_dim)):
                ids = torch.arange(BATCH * length).view(BATCH, length) % module.num_embeddings
                yield (ids,), {}
            return
        if isinstance(module, nn.RNNBase):
            yield _floats(_TOKENS, module.input_size)
            return
        if isinstance(module, nn.MultiheadAttention):
            for length in (_TOKENS, *positions(model, module.embed_dim)):
                yield _floats(length, module.embed_dim)
            return
        if isinstance(module, nn.Linear):
            yield from _before_linear(model, module)
            return
        if isinstance(module, nn.LayerNorm):
            yield _floats(_TOKENS, *module.normalized_shape)


def _before_linear(model: nn.Module, first: nn.Linear) -> Iterator[Inputs]:
    features = first.in_features
    yield _floats(features)
    for length in (_TOKENS, *positions(model, first.out_features)):
        yield _floats(length, features)
    for channels in (1, 3):
        side = round((features / channels) ** 0.5)
        if channels * side * side == features:
            yield _floats(channels, side, side)


def _floats(*shape: int) -> Inputs:
    return (torch.randn(BATCH, *shape),), {}


# --- inputs as callers give them ---------------------------------------------------------------


def distinct(inputs: Inputs) -> Inputs:
    """Inputs of which no two are one tensor.

    One tensor given twice (`dummy_inputs` of encoder-decoders) is no evidence that the two are
    always equal; a capture takes it for one input.
    """
    seen: set[int] = set()

    def own(tensor: torch.Tensor) -> torch.Tensor:
        if id(tensor) in seen:
            return tensor.clone()
        seen.add(id(tensor))
        return tensor

    found: Inputs = pytree.tree_map_only(torch.Tensor, own, inputs)
    return found


def as_inputs(example: Any) -> Inputs | None:
    """Example inputs as positional and keyword arguments.

    Args:
        example: A tensor, a tuple or list of positional arguments, a mapping of keyword
            arguments, or None.

    Raises:
        LiftError: It is none of these, or holds no sample.
        GraphPruneError: A number in it is not finite.
    """
    if example is None:
        return None
    args: tuple[Any, ...] = ()
    kwargs: dict[str, Any] = {}
    if isinstance(example, torch.Tensor | np.ndarray):
        args = (example,)
    elif isinstance(example, Mapping):
        kwargs = dict(example)
    elif isinstance(example, Sequence) and not isinstance(example, str | bytes):
        args = tuple(example)
    else:
        raise LiftError(
            f"example_inputs is a {type(example).__name__}: pass a tensor, a tuple of positional "
            "arguments, or a dict of keyword arguments"
        )
    if args and all(isinstance(x, int) and not isinstance(x, bool) for x in args):
        shape = ", ".join(map(str, args))
        raise LiftError(
            f"example_inputs is {example!r}, which looks like a shape: pass a tensor, "
            f"example_inputs=torch.randn({shape})"
        )
    inputs = {**{f"argument {number}": x for number, x in enumerate(args, 1)}, **kwargs}
    for name, x in inputs.items():
        for held in pytree.tree_leaves(x):
            if isinstance(held, torch.Tensor):
                check_dense(f"example_inputs: {name!r}", held)
        if isinstance(x, torch.Tensor | np.ndarray) and x.ndim and not len(x):
            raise LiftError(
                f"example_inputs holds no sample: {name!r} is of shape {tuple(x.shape)}; pass two "
                "samples or more"
            )
    check_finite("example_inputs", inputs)
    return args, kwargs


def check_dense(name: str, tensor: torch.Tensor) -> None:
    """Refuse a tensor in a layout that cannot be cut.

    Raises:
        LiftError: The tensor is sparse or nested; names it.
    """
    if tensor.layout is not torch.strided or tensor.is_nested:
        kind = "nested" if tensor.is_nested else str(tensor.layout).removeprefix("torch.")
        raise LiftError(
            f"{name} is a {kind} tensor, which cannot be captured: shrink the model with a dense "
            "or padded one in its place"
        )

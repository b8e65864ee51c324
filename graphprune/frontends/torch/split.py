"""split: two layers in a row in place of one, as `nn.Sequential`.

1. Only layers become two whose own code alone reads their weight: a layer whose weight another
   module reads (attention, a fused kernel, code that asks for its type) would break that module.
2. The first of the two has the kernel, strides, padding and groups, and no bias; the second reads
   each place by itself, and has the bias. The numbers that describe the one layer, such as
   `in_features`, stay on the `nn.Sequential`, for code that reads them.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack, suppress
from typing import Any

import torch
from torch import nn
from torch.nn.modules.conv import _ConvNd, _ConvTransposeNd
from torch.utils import _pytree as pytree

from graphprune.core.factors import Pair
from graphprune.core.graph import Op, Value
from graphprune.core.program import Inputs
from graphprune.engine.copying import copied
from graphprune.engine.state import preserved, quiet, same_draws
from graphprune.frontends.torch.captured import CapturedModule
from graphprune.frontends.torch.rebuild import laid_out

_CONVOLUTIONS = {
    nn.Conv1d: nn.Conv1d, nn.Conv2d: nn.Conv2d, nn.Conv3d: nn.Conv3d,
    nn.ConvTranspose1d: nn.Conv1d, nn.ConvTranspose2d: nn.Conv2d, nn.ConvTranspose3d: nn.Conv3d,
}  # fmt: skip
"""Convolutions, each with what reads its places one by one."""

_HOOKS = (
    "_forward_hooks", "_forward_pre_hooks", "_backward_hooks", "_backward_pre_hooks",
    "_state_dict_hooks", "_load_state_dict_pre_hooks",
)  # fmt: skip


def unsplit(captured: CapturedModule, layers: Mapping[Value, Op]) -> dict[Value, str]:
    """Weights that cannot become two, with the reason.

    Args:
        captured: The captured module.
        layers: Weights, each with the only operation that reads it.
    """
    if captured.original is not None:
        return dict.fromkeys(layers, "the model was captured in parts")
    modules = dict(captured.model.named_modules(remove_duplicate=False))
    out: dict[Value, str] = {}
    able: dict[str, Value] = {}
    for weight, op in layers.items():
        path = weight.name.rpartition(".")[0]
        why = _refused(modules.get(path), path, weight, op)
        if why:
            out[weight] = why
        else:
            able[path] = weight
    seen = read_elsewhere(captured.model, captured.inputs, able) if able else set()
    out.update({able[path]: f"code outside of {path} reads its weight" for path in seen})
    return out


def _refused(module: nn.Module | None, path: str, weight: Value, op: Op) -> str:
    """Why a module cannot become two, as far as it tells itself."""
    if module is None or not path:
        return "no module holds it"
    if weight.aliases:
        return f"it is {', '.join(weight.aliases)} too"
    if weight.name != f"{path}.weight" or op.module != path:
        return f"{op.module or 'the model'} reads it, not {path} itself"
    if type(module) is not nn.Linear and type(module) not in _CONVOLUTIONS:
        return f"{type(module).__name__} is no plain linear layer or convolution"
    if any(getattr(module, name, None) for name in _HOOKS):
        return f"{path} has hooks"
    return ""


def read_elsewhere(model: nn.Module, inputs: Inputs, paths: Mapping[str, Any]) -> set[str]:
    """Layers whose weight or bias is read by other code than their own, in either mode.

    The model runs with fused kernels allowed, as some of them read the weights of whole blocks.

    Args:
        model: The module.
        inputs: Example inputs.
        paths: The layers.
    """
    seen: set[str] = set()
    with ExitStack() as stack:
        for path in paths:
            module = model.get_submodule(path)
            kind = type(module)
            module.__class__ = _watched(kind, lambda path=path: seen.add(path))  # type: ignore[misc]
            stack.callback(setattr, module, "__class__", kind)
        for training in (False, True):
            buffers = {name: held.clone() for name, held in model.named_buffers()}
            args, kwargs = pytree.tree_map_only(torch.Tensor, torch.clone, inputs)
            with preserved(model, fused=True), same_draws(), quiet(), suppress(Exception):
                model.train(training)
                with torch.set_grad_enabled(training):
                    torch.func.functional_call(model, buffers, args, kwargs)
    return seen


def _watched(kind: type[nn.Module], note: Callable[[], None]) -> type[nn.Module]:
    """A class of modules that notes when its weight or bias is read from outside of its code."""
    inside = [False]

    def read(self: nn.Module, name: str) -> Any:
        if name in ("weight", "bias") and not inside[0]:
            note()
        return kind.__getattr__(self, name)

    def forward(self: nn.Module, *args: Any, **kwargs: Any) -> Any:
        inside[0] = True
        try:
            return kind.forward(self, *args, **kwargs)
        finally:
            inside[0] = False

    return type(kind.__name__, (kind,), {"__getattr__": read, "forward": forward})


def split(model: nn.Module, pairs: Sequence[Pair]) -> nn.Module:
    """A copy of a module with two layers in a row in place of some; other tensors are shared.

    Args:
        model: The module.
        pairs: The weights of the two layers.
    """
    memo = {id(tensor): tensor for tensor in (*model.parameters(), *model.buffers())}
    out = copied(model, memo)
    for pair in pairs:
        path = pair.weight.name.rpartition(".")[0]
        parent, _, name = path.rpartition(".")
        holder = out.get_submodule(parent)
        holder._modules[name] = _two(out.get_submodule(path), pair)
    return out


def _two(old: nn.Module, pair: Pair) -> nn.Sequential:
    """The two layers that stand for one."""
    first: _ConvNd | nn.Linear
    second: _ConvNd | nn.Linear
    if isinstance(old, _ConvNd):
        first, second = _convolutions(old, pair)
    else:
        rank = len(pair.first)
        first = nn.Linear(pair.first.shape[1], rank, False, device="meta")
        second = nn.Linear(rank, len(pair.second), False, device="meta")
    held = old.get_parameter("weight")
    laid = pair.second.reshape(*pair.second.shape, *[1] * (held.dim() - 2))
    for layer, tensor in ((first, pair.first), (second, laid)):
        new = laid_out(tensor.to(held), held)
        layer.weight = nn.Parameter(new, requires_grad=held.requires_grad)
        layer.training = old.training
    second.bias = old.bias  # type: ignore[assignment]
    out = nn.Sequential(first, second)
    out.training = old.training
    own = nn.Module().__dict__
    out.__dict__.update({name: x for name, x in old.__dict__.items() if name not in own})
    return out


def _convolutions(old: _ConvNd, pair: Pair) -> tuple[_ConvNd, _ConvNd]:
    """The convolution with few outputs, and the one behind it that reads each place by itself."""
    groups = old.groups
    rank = pair.second.shape[1] * groups
    options: dict[str, Any] = {
        "stride": old.stride, "padding": old.padding, "dilation": old.dilation, "groups": groups,
        "bias": False, "padding_mode": old.padding_mode, "device": "meta",
    }  # fmt: skip
    if isinstance(old, _ConvTransposeNd):
        options["output_padding"] = old.output_padding
    first: _ConvNd = type(old)(old.in_channels, rank, old.kernel_size, **options)
    behind: Any = _CONVOLUTIONS[type(old)]
    second: _ConvNd = behind(rank, old.out_channels, 1, groups=groups, bias=False, device="meta")
    return first, second


__all__ = ["read_elsewhere", "split", "unsplit"]

"""A copy of the caller's module with narrowed tensors, and the attributes of `torch.nn` set."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import torch
from torch import nn
from torch.nn.modules.batchnorm import _NormBase
from torch.nn.modules.conv import _ConvNd

from graphprune.core.axes import leaves
from graphprune.core.cuts import Cuts, Kept
from graphprune.core.errors import LiftError
from graphprune.core.indices import kept_length
from graphprune.engine.copying import copied
from graphprune.engine.tensors import cut_tensor
from graphprune.frontends.torch.captured import CapturedModule


def rebuild(captured: CapturedModule, cuts: Cuts, blank: bool = False) -> nn.Module:
    """Copy the model, its narrowed tensors in place of the full ones.

    Ties, `requires_grad`, buffers, hooks, device, dtype and train/eval mode carry over. The
    full tensors that shrink are never copied.

    Args:
        captured: The captured model.
        cuts: The narrowed graph.
        blank: Whether tensors only need the right shapes; they then take no memory, and are on the
            meta device where the model's code runs there.

    Raises:
        LiftError: The model cannot be deep-copied.
    """
    memo: dict[int, Any] = {}
    kept = {id(value.tensor): (value.tensor, found) for value, found in cuts.weights.items()}
    for old in _tensors(captured) if blank else (old for old, _ in kept.values()):
        dims: Kept = kept[id(old)][1] if id(old) in kept else [None] * old.dim()
        if blank:
            new = _blank(old, dims, captured.on_meta)
        else:
            new = laid_out(cut_tensor(old.detach(), dims), old)
        memo[id(old)] = (
            nn.Parameter(new, requires_grad=old.requires_grad)
            if isinstance(old, nn.Parameter)
            else new
        )
    try:
        model = copied(captured.model, memo)
    except Exception as error:
        raise LiftError(
            f"{type(captured.model).__name__} cannot be deep-copied: {error}\nGive it a "
            "__deepcopy__, or remove the attribute that cannot be copied"
        ) from error
    _keep_tables(captured, cuts, model, blank)
    modes = [(module, module.training) for module in model.modules()]
    model.eval()  # reading a parametrized weight must not update what it is computed from
    _set_groups(model, cuts)
    for name, module in model.named_modules():
        settle(module)
        if isinstance(module, nn.MultiheadAttention):
            _settle_heads(module, name, cuts)
    for module in model.modules():
        if isinstance(module, nn.TransformerEncoder):
            _settle_encoder(module)
    for module, mode in modes:
        module.training = mode
    if not blank:
        _take_over(captured.model, model, kept)
    return model


def _keep_tables(captured: CapturedModule, cuts: Cuts, model: nn.Module, blank: bool) -> None:
    """Give a copy the tables that code makes at its first call, as they are cut.

    A model that has not run yet would make them of its new widths.
    """
    for value, kept in cuts.weights.items():
        path, _, attr = value.name.rpartition(".")
        try:
            module = model.get_submodule(path)
        except AttributeError:  # a constant that no attribute holds
            continue
        if attr in module.__dict__ and module.__dict__[attr] is None:
            old = value.tensor.detach()
            new = _blank(old, kept, captured.on_meta) if blank else cut_tensor(old, kept)
            module.__dict__[attr] = new


def _take_over(
    source: nn.Module, model: nn.Module, kept: Mapping[int, tuple[torch.Tensor, Kept]]
) -> None:
    """Give parameters what a deep copy of them leaves behind: attributes and gradient hooks.

    Attributes of a parameter's own shape, such as a mask, are cut as it is. Hooks of one that was
    cut go on seeing gradients of the full shape, zeros in place of what went.
    """
    copies = dict(model.named_parameters(remove_duplicate=False))
    for name, old in source.named_parameters():
        new = copies.get(name)
        if new is None or new is old:
            continue
        dims = kept[id(old)][1] if id(old) in kept else None
        for attr, held in old.__dict__.items():
            if attr not in new.__dict__:
                alike = isinstance(held, torch.Tensor) and held.shape == old.shape
                cut = cut_tensor(held.detach(), dims) if alike and dims is not None else held
                new.__dict__[attr] = copy.deepcopy(cut)
        for hook in (old._backward_hooks or {}).values():
            seen = hook if dims is None else FullGradient(hook, old.shape, dims)
            new.register_hook(seen)  # type: ignore[no-untyped-call]
        for hook in (getattr(old, "_post_accumulate_grad_hooks", None) or {}).values():
            new.register_post_accumulate_grad_hook(hook)  # type: ignore[no-untyped-call]


class FullGradient:
    """A gradient hook of a parameter that was cut, shown gradients of the full shape.

    Args:
        hook: The caller's hook.
        shape: The full shape.
        kept: The positions that stay, for each dimension; None for all.
    """

    def __init__(self, hook: Callable[..., Any], shape: Sequence[int], kept: Kept) -> None:
        self.hook, self.shape, self.kept = hook, tuple(shape), kept

    def __call__(self, gradient: torch.Tensor) -> torch.Tensor | None:
        """What the hook makes of the gradient, cut again."""
        grid = [
            torch.arange(size, device=gradient.device)
            if indices is None
            else torch.as_tensor(indices, device=gradient.device)
            for size, indices in zip(self.shape, self.kept, strict=True)
        ]
        full = gradient.new_zeros(self.shape)
        full[torch.meshgrid(*grid, indexing="ij")] = gradient
        found = self.hook(full)
        return None if found is None else cut_tensor(found, self.kept)


def laid_out(tensor: torch.Tensor, like: torch.Tensor) -> torch.Tensor:
    """A tensor in the memory format of another: channels first or last."""
    for dim, layout in ((4, torch.channels_last), (5, torch.channels_last_3d)):
        other = like.dim() == dim and not like.is_contiguous()
        if other and like.is_contiguous(memory_format=layout):
            return tensor.contiguous(memory_format=layout)
    return tensor.contiguous()


def _tensors(captured: CapturedModule) -> Iterator[torch.Tensor]:
    """The tensors that the graph knows; where all are to be on one device, the others too."""
    yield from (value.tensor for value in captured.graph.weights.values())
    if captured.on_meta:
        yield from captured.model.parameters()
        yield from captured.model.buffers()


def _blank(old: torch.Tensor, kept: Kept, on_meta: bool) -> torch.Tensor:
    shape = [n if k is None else len(k) for n, k in zip(old.shape, kept, strict=True)]
    return old.new_empty(shape, device="meta") if on_meta else old.new_zeros(()).expand(shape)


def _set_groups(model: nn.Module, cuts: Cuts) -> None:
    modules = dict(model.named_modules(remove_duplicate=False))
    for op, changed in cuts.attrs.items():
        module = modules.get(op.module)
        if isinstance(module, _ConvNd | nn.ChannelShuffle) and "groups" in changed:
            module.groups = changed["groups"]
        elif isinstance(module, nn.GroupNorm) and "num_groups" in changed:
            module.num_groups = changed["num_groups"]
        elif isinstance(module, nn.LayerNorm | nn.RMSNorm) and "normalized_shape" in changed:
            module.normalized_shape = tuple(changed["normalized_shape"])


def settle(module: nn.Module) -> None:
    """Make the size attributes of a `torch.nn` module agree with its tensors."""
    weight = getattr(module, "weight", None)
    if isinstance(module, _ConvNd):
        first, second = module.weight.shape[:2]
        if module.transposed:
            module.in_channels, module.out_channels = first, second * module.groups
        else:
            module.out_channels, module.in_channels = first, second * module.groups
    elif isinstance(module, nn.Linear):
        module.out_features, module.in_features = module.weight.shape
    elif isinstance(module, nn.Bilinear):
        module.out_features, module.in1_features, module.in2_features = module.weight.shape
    elif isinstance(module, _NormBase):
        stat = weight if isinstance(weight, torch.Tensor) else module.running_mean
        if stat is not None:
            module.num_features = stat.shape[0]
    elif isinstance(module, nn.GroupNorm) and isinstance(weight, torch.Tensor):
        module.num_channels = weight.shape[0]
    elif isinstance(module, nn.LayerNorm | nn.RMSNorm) and isinstance(weight, torch.Tensor):
        module.normalized_shape = tuple(weight.shape)
    elif isinstance(module, nn.Embedding | nn.EmbeddingBag):
        module.num_embeddings, module.embedding_dim = module.weight.shape
    elif isinstance(module, nn.PReLU):
        module.num_parameters = module.weight.shape[0]
    elif isinstance(module, nn.RNNBase):
        gates = {"LSTM": 4, "GRU": 3}.get(module.mode, 1)
        taken, recurrent = (p.shape for p in module.all_weights[0][:2])
        module.input_size, module.hidden_size = taken[1], taken[0] // gates
        module.proj_size = recurrent[1] if module.proj_size else 0
    elif isinstance(module, nn.RNNCellBase):
        module.hidden_size, module.input_size = module.weight_hh.shape[1], module.weight_ih.shape[1]


def _settle_encoder(module: nn.TransformerEncoder) -> None:
    """Do without nested tensors where the kernel that takes them does not take the new widths.

    It asks for an even number of heads that fill the whole width; the module looks at that when it
    is made, and with a padding mask fails if it finds out later.
    """
    for attention in module.modules():
        if isinstance(attention, nn.MultiheadAttention):
            whole = attention.head_dim * attention.num_heads == attention.embed_dim
            if attention.num_heads % 2 or not whole:
                module.use_nested_tensor = False


def _settle_heads(module: nn.MultiheadAttention, name: str, cuts: Cuts) -> None:
    """Width and heads of `nn.MultiheadAttention`, read off the axes of its output projection."""
    weight = cuts.deps.source.weights.get(f"{name}.out_proj.weight".lstrip("."))
    if weight is None:
        return
    counts = {axis: len(kept) for axis, kept in cuts.keep.items()}
    heads, kept = 1, 1
    for axis in leaves(cuts.deps.dims[weight][1]):
        if heads < module.num_heads:
            heads, kept = heads * axis.size, kept * kept_length((axis,), counts)
    module.embed_dim = module.out_proj.weight.shape[0]
    module.num_heads = kept
    module.head_dim = module.out_proj.weight.shape[1] // kept
    if module.k_proj_weight is not None and module.v_proj_weight is not None:
        module.kdim, module.vdim = module.k_proj_weight.shape[1], module.v_proj_weight.shape[1]
    else:
        module.kdim = module.vdim = module.embed_dim

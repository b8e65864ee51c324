"""sparse: zeros as masks of `torch.nn.utils.prune`, or as PyTorch's tensors for 2:4 kernels."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, TypeVar

import torch
from torch import nn
from torch.nn.utils import prune

from graphprune.core.errors import GraphPruneError, OptionError, first_line, nearest
from graphprune.core.within import Mask
from graphprune.sparsity.request import FORMS

M = TypeVar("M")

_AMPERE = (8, 0)  # the first CUDA devices with kernels for 2:4
_TWO_OF_FOUR = "2:4"


def check_form(model: Any, form: Any, pattern: Any) -> None:
    """Refuse a form that a model cannot have, before the work.

    Raises:
        OptionError: Says what the form needs, and the way out.
    """
    if not isinstance(form, str) or form not in FORMS:
        raise OptionError(f"no form {form!r}: {nearest(form, FORMS)}")
    if form == "zeros":
        return
    if not isinstance(model, nn.Module):
        raise OptionError(
            f"form={form!r} needs a torch.nn.Module, not a {type(model).__name__}: files hold "
            "form='zeros'"
        )
    if form == "masks":
        return
    if pattern != _TWO_OF_FOUR:
        raise OptionError(f"form={form!r} needs pattern='2:4', not {pattern!r}")
    devices = {p.device for p in model.parameters()}
    for device in devices:
        if device.type != "cuda" or torch.cuda.get_device_capability(device) < _AMPERE:
            raise OptionError(
                f"form={form!r} needs a CUDA device of compute capability 8.0 or newer; this "
                f"model is on {device}: move it there first, or take form='zeros' and call "
                "torch.sparse.to_sparse_semi_structured where it runs"
            )


def formed(model: M, form: str, masks: Sequence[Mask]) -> M:
    """The model with its zeros in another form.

    Args:
        model: The model, which holds the zeros; it is changed.
        form: A name in `FORMS`.
        masks: Where the zeros are.

    Raises:
        GraphPruneError: The device's kernels refuse a weight; names it.
    """
    if form == "zeros" or not isinstance(model, nn.Module):
        return model
    kept = {mask.weight: mask for mask in masks}
    tensors = {id(p): n for n, p in model.named_parameters() if n in kept}
    for path, module in list(model.named_modules(remove_duplicate=False)):
        for name, held in list(module._parameters.items()):
            if held is None or id(held) not in tensors:
                continue
            mask = kept[tensors[id(held)]]
            if form == "masks":
                flags = torch.as_tensor(mask.kept, device=held.device).to(held.dtype)
                prune.custom_from_mask(module, name, flags)  # type: ignore[no-untyped-call]
            elif isinstance(module, nn.Linear) and name == "weight":
                module.weight = _semi_structured(held, path)
    return model


def _semi_structured(weight: nn.Parameter, path: str) -> nn.Parameter:
    try:
        held = torch.sparse.to_sparse_semi_structured(weight.detach())
    except (RuntimeError, NotImplementedError, ValueError) as error:
        raise GraphPruneError(
            f"{path}.weight of {tuple(weight.shape)} {weight.dtype} is none that 2:4 kernels take "
            f"({first_line(error)}): keep=[{path!r}] leaves it dense"
        ) from error
    return nn.Parameter(held, requires_grad=False)

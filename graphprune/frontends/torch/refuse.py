"""Modules that cannot be pruned are refused before any work, by name."""

from __future__ import annotations

import torch
from torch import nn
from torch.utils._python_dispatch import is_traceable_wrapper_subclass

from graphprune.core.errors import LiftError
from graphprune.frontends.torch.inputs import check_dense
from graphprune.frontends.torch.lift import DISTRIBUTED


def check(model: nn.Module) -> None:
    """Refuse what cannot be pruned, by name.

    Raises:
        LiftError: The module is scripted, quantized, distributed, on the meta device, holds no
            parameters, or holds weights that are not finite.
    """
    if isinstance(model, torch.jit.ScriptModule):
        raise LiftError("a scripted module cannot be captured: pass the nn.Module it was made from")
    if hasattr(model, "_guards_fn"):
        raise LiftError(
            "the module of an exported program cannot be captured again: pass the program itself"
        )
    for name, module in model.named_modules():
        where = f"{name or 'the model'} ({type(module).__name__})"
        if isinstance(module, torch.jit.ScriptModule):
            raise LiftError(f"{where} is scripted: replace it by the nn.Module it was made from")
        if type(module).__module__.startswith(DISTRIBUTED):
            raise LiftError(
                f"{where} is bound to its processes: put the module that it holds in its place, "
                "and wrap the result"
            )
        if ".quantized" in type(module).__module__:
            raise LiftError(
                f"{where} is quantized: prune the float model, then quantize the result"
            )
    parameters = list(model.named_parameters())
    if not parameters:
        raise LiftError("the model has no parameters: there is nothing to prune")
    for name, tensor in [*parameters, *model.named_buffers()]:
        if isinstance(tensor, (nn.UninitializedParameter, nn.UninitializedBuffer)):
            raise LiftError(f"{name} is not initialized: run one forward pass first (lazy module)")
        if tensor.is_meta:
            raise LiftError(
                f"{name} is on the meta device: load the weights first (model.to_empty)"
            )
        check_dense(name, tensor)
        if is_traceable_wrapper_subclass(tensor):
            raise LiftError(
                f"{name} is a {type(tensor).__name__}, which packs its values in a form that "
                "cannot be cut: shrink the model with plain weights, then quantize or distribute "
                "the result"
            )
        if isinstance(tensor, nn.Parameter) and _broken(tensor):
            raise LiftError(f"{name} holds NaN or infinite values: repair the weights first")


def _broken(tensor: torch.Tensor) -> bool:
    """Whether a tensor holds NaN or infinity; the sum tells in one pass where it does not.

    Frozen, it may hold -inf: an attention mask is no weight to be repaired.
    """
    if not tensor.is_floating_point() or bool(torch.isfinite(tensor.sum())):
        return False
    allowed = torch.isfinite(tensor)
    if not tensor.requires_grad:
        allowed |= torch.isneginf(tensor)
    return not bool(allowed.all())

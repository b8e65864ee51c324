"""rejects: whether a model runs on inputs, tried without values."""

from __future__ import annotations

import torch
from torch import nn
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.func import functional_call
from torch.utils import _pytree as pytree

from graphprune.core.errors import named_line
from graphprune.core.program import Inputs
from graphprune.engine.state import preserved, quiet
from graphprune.frontends.torch.forms import blank
from graphprune.frontends.torch.older import exporting
from graphprune.frontends.torch.tables import tables_preserved


def rejects(model: nn.Module, inputs: Inputs, training: bool = False) -> str | None:
    """Why a model does not run on inputs, in eval or training mode, or None if it does."""
    fake = FakeTensorMode(allow_non_fake_inputs=True)
    args, kwargs = pytree.tree_map_only(torch.Tensor, fake.from_tensor, inputs)
    with preserved(model), tables_preserved(model), torch.no_grad(), quiet():
        model.train(training)
        if _runs_on_meta(model, inputs):
            return None
        try:
            with exporting(), fake:
                model(*args, **kwargs)
        except Exception as error:
            if not _needs_values(error):
                return named_line(error)
            if training:
                return None  # it reads values, which fake tensors lack; its shapes were accepted
        else:
            return None
        try:
            model(*inputs[0], **inputs[1])
        except Exception as error:
            return named_line(error)
    return None


def _runs_on_meta(model: nn.Module, inputs: Inputs) -> bool:
    """Whether a model runs on tensors without a device: most do, in a third of the time."""
    held = {**dict(model.named_parameters()), **dict(model.named_buffers())}
    args, kwargs = pytree.tree_map_only(torch.Tensor, blank, inputs)
    try:
        with exporting():
            functional_call(model, {name: blank(x) for name, x in held.items()}, args, kwargs)
    except Exception:  # which tensors that know their device may not raise
        return False
    return True


def _needs_values(error: Exception) -> bool:
    name = type(error).__name__
    return "DataDependent" in name or "DynamicOutput" in name or "data-dependent" in str(error)

"""Tensors of `torch.inference_mode`, which no gradient can pass and torch.export cannot trace."""

from __future__ import annotations

from collections.abc import Callable
from functools import wraps
from itertools import chain
from typing import Any, ParamSpec, TypeVar

import torch
from torch import nn
from torch.nn.parameter import is_lazy
from torch.utils import _pytree as pytree

from graphprune.engine.copying import copied
from graphprune.engine.state import same_draws

P = ParamSpec("P")
R = TypeVar("R")


def undisturbed(work: Callable[P, R]) -> Callable[P, R]:
    """Let a function make ordinary tensors, whatever mode it is called in.

    The global random generators are left as they were.
    """

    @wraps(work)
    def call(*args: P.args, **kwargs: P.kwargs) -> R:
        with same_draws():
            if not torch.is_inference_mode_enabled():
                return work(*args, **kwargs)
            with torch.inference_mode(False):
                return work(*args, **kwargs)

    return call


def ordinary(model: nn.Module) -> nn.Module:
    """The model itself, or a copy of ordinary tensors where it holds others."""
    tensors = chain(model.parameters(), model.buffers())
    if any(x.is_inference() for x in tensors if not is_lazy(x)):
        return copied(model)
    return model


def ordinary_inputs(inputs: Any) -> Any:
    """Inputs whose tensors are ordinary ones."""
    return pytree.tree_map_only(
        torch.Tensor, lambda x: x.clone() if x.is_inference() else x, inputs
    )

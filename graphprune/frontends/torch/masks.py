"""masks: weights that hooks or parametrizations multiply by stored numbers, made plain weights."""

from __future__ import annotations

import copy
from collections.abc import Iterator
from typing import Any

import torch
from torch import nn
from torch.nn.utils import parametrize, prune

from graphprune.core.errors import LiftError, first_line
from graphprune.engine.state import preserved

_EQUAL = 1e-6  # relative difference of two masks that rounding explains


def materialised(model: nn.Module) -> tuple[nn.Module, list[str]]:
    """A copy of a model whose masks are multiplied into the weights that they lie over.

    Args:
        model: The model; it is not modified.

    Returns:
        The copy, or the model itself where it has no masks; and the names of the weights.

    Raises:
        LiftError: The model cannot be copied.
    """
    if not list(_masked(model)):
        return model, []
    made = _copied(model)
    names = []
    for path, module, name in list(_masked(made)):
        _settle(module, name)
        names.append(f"{path}.{name}".lstrip("."))
    return made, names


def _masked(model: nn.Module) -> Iterator[tuple[str, nn.Module, str]]:
    """Weights under masks: the path of the module, the module, the weight's name in it."""
    for path, module in model.named_modules():
        for hook in module._forward_pre_hooks.values():
            if isinstance(hook, prune.BasePruningMethod):
                yield path, module, hook._tensor_name
        held = module._modules.get("parametrizations")
        for name, steps in held._modules.items() if isinstance(held, nn.ModuleDict) else ():
            if isinstance(steps, parametrize.ParametrizationList) and _only_masks(steps):
                yield path, module, name


def _only_masks(steps: parametrize.ParametrizationList) -> bool:
    """Whether parametrizations do no more than multiply a weight by numbers that stand.

    They are asked themselves: what they make of two drawn weights differs from them by the same
    factors, and they learn nothing.
    """
    if steps.is_tensor is not True or any(True for step in steps for _ in step.parameters()):
        return False
    original = steps.original
    generator = torch.Generator().manual_seed(0)
    factors = []
    with preserved(steps), torch.no_grad():
        steps.eval()
        for _ in range(2):
            drawn = torch.rand(original.shape, generator=generator, dtype=torch.float64) + 0.5
            given = result = drawn.to(original)
            try:
                for step in steps:
                    result = step(result)
            except Exception:  # it takes no such weight: it is no mask
                return False
            if not isinstance(result, torch.Tensor) or result.shape != given.shape:
                return False
            factors.append(result / given)
    first, second = factors
    return bool(((first - second).abs() <= _EQUAL * first.abs().clamp(min=1e-12)).all())


def _settle(module: nn.Module, name: str) -> None:
    """Multiply the mask over one weight into it."""
    held = module._modules.get("parametrizations")
    if isinstance(held, nn.ModuleDict) and name in held:
        _own_class(module)
        parametrize.remove_parametrizations(module, name, leave_parametrized=True)
    else:
        prune.remove(module, name)  # type: ignore[no-untyped-call]


def _own_class(module: nn.Module) -> None:
    """Give a parametrized module a class of its own.

    A parametrized weight is a property of a class that is made for the module, which a deep copy
    of the module shares: to take it off there would take it from the original too.
    """
    kind = type(module)
    held = {key: item for key, item in vars(kind).items() if key not in ("__dict__", "__weakref__")}
    module.__class__ = type(kind.__name__, kind.__bases__, held)


def _copied(model: nn.Module) -> nn.Module:
    memo: dict[int, Any] = {}
    for module in model.modules():
        for held in module.__dict__.values():  # what a hook computed at the last forward pass
            if isinstance(held, torch.Tensor) and held.grad_fn is not None:
                memo.setdefault(id(held), held.detach().clone())
    try:
        return copy.deepcopy(model, memo)
    except Exception as error:
        raise LiftError(
            f"{type(model).__name__} cannot be deep-copied: {first_line(error)}"
        ) from error


__all__ = ["materialised"]

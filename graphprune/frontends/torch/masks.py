"""masks: weights that hooks, parametrizations or wrappers multiply by stored numbers, made plain.

A wrapper is a module around another that holds masks of its weights: it multiplies them in, and
hands on what it takes to the other and what that returns (pruners of NNI). The module that it is
around takes its place.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import nn
from torch.nn.utils import parametrize, prune
from torch.utils import _pytree as pytree

from graphprune.core.errors import LiftError, first_line
from graphprune.core.program import Inputs
from graphprune.engine.copying import copied
from graphprune.engine.state import preserved, same_draws

_EQUAL = 1e-6  # relative difference of two masks that rounding explains


def materialised(model: nn.Module, inputs: Inputs) -> tuple[nn.Module, list[str]]:
    """A copy of a model whose masks are multiplied into the weights that they lie over.

    Args:
        model: The model; it is not modified.
        inputs: Example inputs.

    Returns:
        The copy, or the model itself where it has no masks; and the names of the weights.

    Raises:
        LiftError: The model cannot be copied.
    """
    around = list(_around(model))
    if not around and not list(_masked(model)):
        return model, []
    made = _copied(model)
    names = _unwrapped(made, around, inputs) if around else []
    for path, module, name in list(_masked(made)):
        _settle(module, name)
        names.append(f"{path}.{name}".lstrip("."))
    return (made, names) if names else (model, [])


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


# --- wrappers -------------------------------------------------------------------------------------


def _around(model: nn.Module) -> Iterator[str]:
    """Paths of modules around one other that hold numbers in the shape of one of its weights."""
    for path, module in model.named_modules():
        if path and len(module._modules) == 1:
            (inner,) = module._modules.values()
            shapes = {x.shape for x in _own(module).values()}
            held = {} if inner is None else _own(inner)
            if any(x.shape in shapes for x in held.values()):
                yield path


def _own(module: nn.Module) -> dict[str, torch.Tensor]:
    """The tensors that a module itself holds, as weights, as buffers or as mere attributes."""
    held = {**module._parameters, **module._buffers, **module.__dict__}
    return {name: x for name, x in held.items() if isinstance(x, torch.Tensor)}


@dataclass
class _Seen:
    """What a module around another was seen to do.

    Attributes:
        given: What it took, in one call.
        weights: The weights of the other when that ran, in each call.
        result: What the other returned last.
        plain: Whether it handed on what it took, and what came back.
    """

    given: Any = None
    weights: list[dict[str, torch.Tensor]] = field(default_factory=list)
    result: Any = None
    plain: bool = True


def _unwrapped(model: nn.Module, paths: list[str], inputs: Inputs) -> list[str]:
    """Put modules in place of the wrappers around them; the names of the weights under masks.

    Wrappers are watched: a mask does the same whatever the inputs are.
    """
    modules = {path: model.get_submodule(path) for path in paths}
    before = {path: (_cloned(module), _cloned(_inner(module))) for path, module in modules.items()}
    seen = {path: _Seen() for path in paths}
    try:
        for given in (inputs, pytree.tree_map_only(torch.Tensor, _otherwise, inputs)):
            _watch(model, modules, seen, given)
    except Exception:  # the caller's code meets inputs that nobody has tried
        return []
    names = []
    for path, found in seen.items():
        masked = _products(found, *before[path]) if found.plain and found.weights else {}
        if masked:
            inner = _inner(modules[path])
            _give(inner, modules[path], found.weights[0], masked)
            parent, _, name = path.rpartition(".")
            model.get_submodule(parent)._modules[name] = inner
            names += [f"{path}.{weight}" for weight in masked]
    return names


def _otherwise(x: torch.Tensor) -> torch.Tensor:
    """Another input of the same numbers."""
    return x.flip(-1) if x.dim() else x


def _inner(module: nn.Module) -> nn.Module:
    (inner,) = module._modules.values()
    assert inner is not None
    return inner


def _cloned(module: nn.Module) -> dict[str, torch.Tensor]:
    return {name: x.detach().clone() for name, x in _own(module).items()}


def _watch(
    model: nn.Module, modules: dict[str, nn.Module], seen: dict[str, _Seen], inputs: Inputs
) -> None:
    """Run a model once and note what wrappers do."""
    args, kwargs = pytree.tree_map_only(torch.Tensor, torch.clone, inputs)
    with preserved(model), torch.no_grad(), same_draws():
        model.eval()
        for path, module in modules.items():
            inner = _inner(module)
            module.__dict__["forward"] = _outer_call(seen[path], module.forward)
            inner.__dict__["forward"] = _inner_call(seen[path], inner, inner.forward)
        model(*args, **kwargs)


def _outer_call(seen: _Seen, forward: Callable[..., Any]) -> Callable[..., Any]:
    def call(*args: Any, **kwargs: Any) -> Any:
        seen.given, seen.result = (args, kwargs), None
        calls = len(seen.weights)
        result = forward(*args, **kwargs)
        seen.plain &= result is seen.result and len(seen.weights) == calls + 1
        return result

    return call


def _inner_call(seen: _Seen, module: nn.Module, forward: Callable[..., Any]) -> Callable[..., Any]:
    def call(*args: Any, **kwargs: Any) -> Any:
        known = pytree.tree_leaves(seen.given)
        given = pytree.tree_leaves((args, kwargs))
        alike = len(known) == len(given) and all(a is b for a, b in zip(known, given, strict=True))
        seen.plain &= alike
        seen.weights.append(_cloned(module))
        seen.result = forward(*args, **kwargs)
        return seen.result

    return call


def _products(
    seen: _Seen, outer: dict[str, torch.Tensor], inner: dict[str, torch.Tensor]
) -> dict[str, str]:
    """Weights that are a stored one times a stored mask in every call, and whose they are.

    Returns:
        For each weight the wrapper's own tensor that is masked, or nothing where it is the weight
        of the module inside.
    """
    first, *others = seen.weights
    out = {}
    for name, found in first.items():
        if any(not torch.equal(found, other[name]) for other in others):
            return {}
        bases = {"": inner.get(name), **outer}
        masks = [x for x in outer.values() if x.shape == found.shape]
        base = next(
            (
                key
                for key, x in bases.items()
                if x is not None
                and x.shape == found.shape
                and any(mask is not x and torch.equal(x * mask, found) for mask in masks)
            ),
            None,
        )
        if base is not None:
            out[name] = base
        elif name not in inner or not torch.equal(found, inner[name]):
            return {}
    return out


def _give(
    inner: nn.Module,
    outer: nn.Module,
    weights: dict[str, torch.Tensor],
    masked: dict[str, str],
) -> None:
    """Let a module hold its masked weights, as parameters where those that are masked are."""
    for name, base in masked.items():
        held = _own(outer)[base] if base else _own(inner)[name]
        for kind in (inner._parameters, inner._buffers, inner.__dict__):
            kind.pop(name, None)
        tensor = weights[name]
        if isinstance(held, nn.Parameter):
            inner.register_parameter(name, nn.Parameter(tensor, held.requires_grad))
        else:
            inner.register_buffer(name, tensor)


# --- masks over weights ---------------------------------------------------------------------------


def _own_class(module: nn.Module) -> None:
    """Give a parametrized module a class of its own.

    A parametrized weight is a property of a class that is made for the module, which a deep copy
    of the module shares: to take it off there would take it from the original too.
    """
    kind = type(module)
    held = {key: item for key, item in vars(kind).items() if key not in ("__dict__", "__weakref__")}
    module.__class__ = type(kind.__name__, kind.__bases__, held)


def _copied(model: nn.Module) -> nn.Module:
    try:
        return copied(model)
    except Exception as error:
        raise LiftError(
            f"{type(model).__name__} cannot be deep-copied: {first_line(error)}"
        ) from error


__all__ = ["materialised"]

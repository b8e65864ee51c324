"""same: two modules run on the same inputs, with the weights that they have."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import torch
from torch import nn
from torch.utils import _pytree as pytree

from graphprune.core.errors import VerifyError, first_line
from graphprune.core.program import Inputs
from graphprune.engine.state import preserved, same_draws
from graphprune.engine.tensors import as_dtype, difference

_SINGLE = 1e-5  # relative: weights that others were folded into are rounded to single precision
_DOUBLE = 1e-10  # relative: sums of double precision in another order, through a whole network
_MARGIN = 16.0  # times the rounding that the model itself shows: a fault is not of its size


def apart(
    model: nn.Module, small: nn.Module, inputs: Inputs, modes: Sequence[bool] = (False,)
) -> float:
    """The largest relative difference between two modules' results.

    They run in double precision where their code takes it, on the inputs and on one sample more.

    Args:
        model: The given module.
        small: The smaller one.
        inputs: Example inputs.
        modes: Whether they run in training mode; in several modes, one after the other.

    Raises:
        VerifyError: They differ by more than rounding explains.
    """
    worst = 0.0
    for given in _sizes(model, inputs):
        for training in modes:
            worst = max(worst, _held_against(model, small, given, training))
    return worst


def apart_on(model: nn.Module, small: nn.Module, inputs: Inputs) -> float:
    """The largest relative difference between two modules' results on these inputs alone.

    Raises:
        VerifyError: They differ by more than rounding explains.
    """
    return _held_against(model, small, inputs)


def apart_in_training(model: nn.Module, small: nn.Module, inputs: Inputs) -> float | None:
    """The largest relative difference between two modules' results in training mode.

    None where the model draws numbers there, or does not run.
    """
    try:
        first, second = (_results(model, inputs, torch.float64, True, seed) for seed in (0, 1))
        if any(difference(a, b) > 0 for a, b in zip(first, second, strict=True)):
            return None
        found = _results(small, inputs, torch.float64, True, 0)
    except Exception:  # single-precision numbers of its own, or it needs labels there
        return None
    if len(first) != len(found):
        return float("inf")
    return max((difference(a, b) for a, b in zip(first, found, strict=True)), default=0.0)


def _sizes(model: nn.Module, inputs: Inputs) -> Iterator[Inputs]:
    """The inputs, and inputs of one sample more where the model takes them."""
    yield inputs
    tensors = [x for x in pytree.tree_leaves(inputs) if isinstance(x, torch.Tensor)]
    number = len(tensors[0]) if tensors and tensors[0].dim() else 0
    if number and all(x.dim() and len(x) == number for x in tensors):
        more: Inputs = pytree.tree_map_only(
            torch.Tensor, lambda x: torch.cat([x, x[:1].flip(-1)]), inputs
        )
        try:
            _results(model, more, None)
        except Exception:  # it takes no other number of samples
            return
        yield more


def _held_against(
    model: nn.Module, small: nn.Module, inputs: Inputs, training: bool = False
) -> float:
    fine = True
    try:
        expected = _results(model, inputs, torch.float64, training)
        found = _results(small, inputs, torch.float64, training)
    except Exception:  # its code makes single-precision numbers of its own
        fine = False
        try:
            expected = _results(model, inputs, None, training)
        except Exception:
            if training:  # it takes no such batch in training
                return 0.0
            raise
    try:
        found = found if fine else _results(small, inputs, None, training)
    except Exception as error:
        raise VerifyError(
            f"the smaller {type(small).__name__} does not run: {first_line(error)}",
            "",
            float("inf"),
        ) from error
    if len(expected) != len(found):
        what = f"{len(found)} results instead of {len(expected)}"
        raise VerifyError(f"the smaller model gives {what}", "", float("inf"))
    stored = max(
        (torch.finfo(p.dtype).eps for p in model.parameters() if p.is_floating_point()),
        default=0.0,
    )
    single = torch.finfo(torch.float32).eps
    limit = _DOUBLE if stored < single else _SINGLE * stored / single
    gaps = [difference(a, b) for a, b in zip(expected, found, strict=True)]
    worst = max(gaps, default=0.0)
    if worst > limit and worst > _MARGIN * _rounding(model, inputs, expected, fine, training):
        raise VerifyError(
            f"the smaller model differs from the given one: largest relative difference "
            f"{worst:.3g} at result {gaps.index(worst)}",
            "",
            worst,
        )
    return worst


def _rounding(
    model: nn.Module,
    inputs: Inputs,
    expected: list[torch.Tensor],
    fine: bool,
    training: bool = False,
) -> float:
    """How far rounding takes the model's own results, which says what two orders of sums may do."""
    if not fine:
        return 0.0
    rough = _results(model, inputs, None, training)
    return max(
        (difference(a.double(), b.double()) for a, b in zip(expected, rough, strict=True)),
        default=0.0,
    )


def _results(
    model: nn.Module,
    inputs: Inputs,
    dtype: torch.dtype | None,
    training: bool = False,
    seed: int | None = None,
) -> list[torch.Tensor]:
    """The tensors that a module gives in evaluation, or in training mode."""
    args, kwargs = pytree.tree_map_only(torch.Tensor, torch.clone, inputs)
    swap: dict[str, Any] = {}
    if training:  # which writes statistics into buffers
        swap = {name: tensor.clone() for name, tensor in model.named_buffers()}
    if dtype is not None:
        named = (*model.named_parameters(), *model.named_buffers())
        held = ((name, tensor.detach()) for name, tensor in named)
        swap = {name: as_dtype(swap.get(name, tensor), dtype) for name, tensor in held}
        args, kwargs = pytree.tree_map_only(
            torch.Tensor, lambda x: as_dtype(x, dtype), (args, kwargs)
        )
    with preserved(model), torch.no_grad(), same_draws():
        model.train(training)
        if seed is not None:
            torch.manual_seed(seed)
        found = torch.func.functional_call(model, swap, args, kwargs)
    tensors = [x for x in pytree.tree_leaves(found) if isinstance(x, torch.Tensor)]
    return [x if dtype is None else as_dtype(x, dtype) for x in tensors]


__all__ = ["apart", "apart_in_training", "apart_on"]

"""Running captured operations one by one, on narrowed operands or in another precision."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from contextlib import nullcontext
from functools import lru_cache, partial
from typing import Any
from weakref import WeakKeyDictionary

import torch
from torch import fx
from torch.utils import _pytree as pytree

from graphprune.core.graph import Op
from graphprune.engine.engine import Engine, sharing
from graphprune.engine.tensors import as_dtype
from graphprune.frontends.torch.packed import EAGER
from graphprune.frontends.torch.reader import bound_arguments
from graphprune.frontends.torch.traced import AUTOCAST
from graphprune.rules.facts import is_blank

_ONE = -1  # a tensor that stands by itself, not in a list
_SLOTS: WeakKeyDictionary[fx.Node, Sequence[tuple[str, int | None, Any]]] = WeakKeyDictionary()
_VIEW, _RESHAPE = torch.ops.aten.view.default, torch.ops.aten.reshape.default
_SPLITS = ("split", "chunk", "tensor_split", "unsafe_chunk", "unsafe_split")
# What kernels of fake quantization say of numbers in double precision.
_ONE_PRECISION = re.compile(r"must be Float|expected scalar type Float")
# Products of rows with one matrix: of rows that are not contiguous, PyTorch makes as many products
# as there are samples, which take four times as long, where no gradients are asked for.
_ROWS = (torch.ops.aten.linear.default, torch.ops.aten.matmul.default)
_DRAWS = ("train", "p", "dropout", "dropout_p")  # arguments of which 0 or False is to draw nothing


def rewritten(op: Op, changed: Mapping[str, Any], operands: Sequence[Any]) -> tuple[Any, Any, Any]:
    """Target, positional and keyword arguments of an operation.

    Args:
        op: The operation; its `source` is the FX node it was read from.
        changed: Attributes with new values.
        operands: What takes the place of the operation's tensor operands, in their order.
    """
    node: fx.Node = op.source
    rest = iter(operands)
    bound: dict[str, Any] = {}
    for name, number, given in _slots(node):
        if number is None:
            bound[name] = changed.get(name, given)
        else:
            bound[name] = next(rest) if number == _ONE else [next(rest) for _ in range(number)]
    target: Any = node.target
    if "split_sizes" in changed and "split_sizes" not in bound:
        name = op.type.partition(".")[2]
        assert name in _SPLITS, name
        source = next(iter(bound.values()))
        dim = bound.get("dim", 0)
        split = torch.ops.aten.split_with_sizes.default
        return split, (source, changed["split_sizes"], dim), {}
    if not isinstance(target, torch._ops.OpOverload):
        return target, tuple(bound.values()), dict(node.kwargs)
    if target == _VIEW:  # which kernels that write another layout in memory do not stand
        target, bound = _RESHAPE, {"self": bound["self"], "shape": bound["size"]}
    named = _named(target)
    args = tuple(given for name, given in bound.items() if name not in named)
    return target, args, {name: bound[name] for name in named}


def _slots(node: fx.Node) -> Sequence[tuple[str, int | None, Any]]:
    """Where operands go among the arguments of a call.

    Returns:
        For each argument its name; the number of tensors in its list, `_ONE` for a tensor by
        itself, None where it takes no operand; and its value in that case.
    """
    found = _SLOTS.get(node)
    if found is None:
        found = _SLOTS[node] = [_slot(*bound) for bound in bound_arguments(node)]
    return found


def _slot(name: str, tensors: bool, given: Any) -> tuple[str, int | None, Any]:
    if isinstance(given, fx.Node) or (tensors and given is None):
        return name, _ONE, None
    if isinstance(given, list | tuple) and any(isinstance(g, fx.Node) for g in given):
        return name, len(given), None
    return name, None, given


@lru_cache(maxsize=2048)
def _named(target: torch._ops.OpOverload) -> frozenset[str]:
    """Names of the arguments that are given by name alone."""
    return frozenset(a.name for a in target._schema.arguments if a.kwarg_only)


def evaluate(
    op: Op,
    operands: Sequence[torch.Tensor | None],
    changed: Mapping[str, Any],
    dtype: torch.dtype | None = None,
) -> list[torch.Tensor]:
    """Run one operation; gradients are recorded where the caller has them recorded.

    Args:
        op: The operation.
        operands: Its tensor operands.
        changed: Attributes with new values.
        dtype: Floating-point type to compute in, in place of every one the operation names.

    Returns:
        Its results.
    """
    target, args, kwargs = rewritten(op, changed, operands)
    if dtype is not None:
        args = tuple(_retyped(arg, dtype) for arg in args)
        kwargs = {name: _retyped(arg, dtype) for name, arg in kwargs.items()}
    held = op.source.meta.get(AUTOCAST) if dtype is None else None
    with nullcontext() if held is None else torch.autocast(**held):
        found = _called(target, args, kwargs, dtype)
    several = found if isinstance(found, list | tuple) else [found]
    tensors = [item for item in several if isinstance(item, torch.Tensor)]
    if is_blank(op):
        tensors = [torch.zeros_like(item) for item in tensors]
    if dtype is not None:
        tensors = [as_dtype(item, dtype) for item in tensors]
    return tensors


def _called(target: Any, args: Any, kwargs: Any, dtype: torch.dtype | None) -> Any:
    """What an operation returns; in single precision where its kernel has no other."""
    target = EAGER.get(target, target)
    if target in _ROWS and args[1].dim() == 2:
        args = (args[0].contiguous(), *args[1:])
    try:
        return target(*args, **kwargs)
    except RuntimeError as error:
        if dtype is not torch.float64 or not _ONE_PRECISION.search(str(error)):
            raise
    single = partial(as_dtype, dtype=torch.float32)
    args, kwargs = pytree.tree_map_only(torch.Tensor, single, (args, kwargs))
    return target(*args, **kwargs)


def _random(op: Op) -> bool:
    """What PyTorch says of an operation, if it is one of its own and not told to draw nothing."""
    tags = getattr(getattr(op.source, "target", None), "tags", ())
    drawn = torch.Tag.nondeterministic_seeded in tags
    return drawn and not any(op.attrs.get(name, 1) == 0 for name in _DRAWS)


def writes(op: Op) -> bool:
    """Whether an operation of PyTorch's writes in place."""
    schema = getattr(getattr(op.source, "target", None), "_schema", None)
    return bool(schema is not None and schema.is_mutable and op.outputs)


def _retyped(arg: Any, dtype: torch.dtype) -> Any:
    return dtype if isinstance(arg, torch.dtype) and arg.is_floating_point else arg


TORCH = Engine(sharing(evaluate), torch.float64, differentiable=True, random=_random, writes=writes)

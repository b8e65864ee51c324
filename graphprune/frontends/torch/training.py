"""What only training mode does: auxiliary heads, codebooks, averages of weights, further losses.

The model is captured once more in training mode, for the analysis alone: those operations are
never run, so it does no harm where a capture follows one way of several. Layers that are left out
at random stay in, and `x[mask] = y`, the number of whose rows depends on the data, is read as the
choice between x and y that it is.
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import suppress
from typing import Any

import torch
from torch import Tensor, nn
from torch.fx.experimental.symbolic_shapes import GuardOnDataDependentSymNode
from torch.overrides import TorchFunctionMode

from graphprune.core.errors import LiftError
from graphprune.core.graph import Graph


def unreached(model: nn.Module, graph: Graph) -> list[str]:
    """Names of the parameters that no operation of a graph reaches."""
    reached = {id(value.tensor) for value in graph.weights.values()}
    return [name for name, parameter in model.named_parameters() if id(parameter) not in reached]


def untouched(model: nn.Module, graph: Graph) -> bool:
    """Whether no operation of a graph touches some stored buffer, counts apart.

    Training may keep them beside others: running means of the rows of a codebook.
    """
    reached = {id(value.tensor) for value in graph.weights.values()}
    stored = (
        held
        for module in model.modules()
        for name, held in module._buffers.items()
        if held is not None and name not in module._non_persistent_buffers_set
    )
    return any(
        held.dim() > 0 and held.is_floating_point() and id(held) not in reached for held in stored
    )


def add_training(
    model: nn.Module, graph: Graph, warnings: list[str], capture: Callable[[], Any]
) -> None:
    """Let weights that only training mode reaches take part in the analysis.

    Args:
        model: The model, in training mode.
        graph: The model as captured in eval mode; modified.
        warnings: Where to say what does not work.
        capture: Captures the model as it is.
    """
    try:
        _add(graph, capture().graph)
        return
    except LiftError as error:
        why = str(error).splitlines()[0]
    for answer in (False, True):
        if unreached(model, graph):
            with suppress(LiftError), _Settled(answer):
                _add(graph, capture().graph)
    left = unreached(model, graph)
    if left:
        warnings.append(
            "training mode could not be captured; weights that only it uses keep their widths, "
            f"with which it may fail ({', '.join(left[:3])}{', ...' if left[3:] else ''}): {why}"
        )


def _add(graph: Graph, extra: Graph) -> None:
    """Add the operations of a capture of the same model to a graph."""
    known = {id(value.tensor): value for value in graph.weights.values()}
    swap = dict(zip(extra.inputs, graph.inputs, strict=True))
    prefix = "training/" if not graph.training else "training again/"
    for value in extra.weights.values():
        if id(value.tensor) in known:
            swap[value] = known[id(value.tensor)]
        else:
            while value.name in graph.weights:  # another constant that code makes of literals
                value.name = f"training/{value.name}"
            graph.weights[value.name] = value
    for op in extra.ops:
        op.inputs = [swap.get(v, v) if v is not None else None for v in op.inputs]
        op.name = prefix + op.name
        for value in op.outputs:
            value.name = prefix + value.name
    graph.training = [*graph.training, *extra.ops]
    graph.outputs = graph.outputs + [swap.get(v, v) for v in extra.outputs]


class _Settled(TorchFunctionMode):
    """Settles what depends on data: every such question gets the same answer."""

    def __init__(self, answer: bool) -> None:
        super().__init__()
        self._answer = answer

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if func is Tensor.__bool__:
            try:
                return func(*args)
            except GuardOnDataDependentSymNode:
                return self._answer
        if func is Tensor.__setitem__ and _by_mask(*args):
            tensor, mask, new = args
            mask = mask.reshape(*mask.shape, *[1] * (tensor.dim() - mask.dim()))
            tensor.copy_(torch.where(mask, new, tensor))
            return None
        return func(*args, **(kwargs or {}))


def _by_mask(tensor: Tensor, index: Any, new: Any) -> bool:
    """Whether `tensor[index] = new` writes the same to every place that a mask tells."""
    return (
        isinstance(index, Tensor)
        and index.dtype is torch.bool
        and (not isinstance(new, Tensor) or new.dim() <= tensor.dim() - index.dim())
    )

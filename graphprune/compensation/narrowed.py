"""A refitted weight and its constant, in the shapes of the narrowed graph."""

from __future__ import annotations

import torch

from graphprune.compensation.consumer import Consumer
from graphprune.compensation.layout import Layout
from graphprune.core.cuts import Cuts
from graphprune.core.graph import Value
from graphprune.engine.tensors import cut_tensor


def narrowed(
    consumer: Consumer, how: Layout, groups: torch.Tensor, new: torch.Tensor, cuts: Cuts
) -> torch.Tensor:
    """A refitted weight, cut to the outputs that stay, in the weight's own order of dimensions.

    Args:
        consumer: The consumer.
        how: The layout of its channels.
        groups: Numbers of the layout's groups that stay.
        new: The weight of these groups for all outputs, as `refit` returns it.
        cuts: What was removed.
    """
    kept: list[object] = list(cuts.kept(consumer.weight))
    weight = consumer.weight_of(how.gathered(new), consumer.kernel)
    kept[consumer.inner] = None
    written = consumer.written
    kind = consumer.weight.tensor.dtype if written is None else written.dtype
    if consumer.stack is not None and how.groups > 1:
        kept[consumer.stack] = None
    if consumer.inner == 1 and consumer.stack is None:
        kept[0] = _outputs_within(consumer, groups, cuts)
    return cut_tensor(weight, kept).to(kind).contiguous()


def shifted(
    consumer: Consumer, groups: torch.Tensor, constant: torch.Tensor, cuts: Cuts
) -> tuple[Value, torch.Tensor]:
    """Where a constant is added to a consumer's outputs, and what is added there.

    Args:
        consumer: The consumer.
        groups: Numbers of its groups that stay.
        constant: The constant for all outputs of these groups.
        cuts: What was removed.

    Returns:
        The bias and the constant, or the mean of the batch norm and the negated constant; for the
        outputs that stay.
    """
    if consumer.half is not None:
        assert consumer.bias is not None
        directions = consumer.weight.shape[0]
        kept = cuts.kept(consumer.weight)
        own = cut_tensor(constant.view(directions, -1), [kept[0], kept[3 - consumer.inner]])
        halves = [torch.zeros_like(own), torch.zeros_like(own)]
        halves[consumer.half] = own
        return consumer.bias, torch.cat(halves, 1)
    outputs = _outputs_within(consumer, groups, cuts)
    if outputs is not None:
        if consumer.inner == 0 and consumer.groups > 1:  # the same outputs in each group
            each = consumer.weight.shape[1]
            starts = torch.arange(0, len(constant), each)
            outputs = (starts[:, None] + outputs).flatten()
        constant = constant[outputs.to(constant.device)]
    if consumer.bias is not None:
        return consumer.bias, constant
    assert consumer.norm is not None and consumer.norm.inputs[3] is not None
    return consumer.norm.inputs[3], -constant


def _outputs_within(consumer: Consumer, groups: torch.Tensor, cuts: Cuts) -> torch.Tensor | None:
    """The outputs that stay, numbered among the outputs of the groups that stay; None for all."""
    dim = 0 if consumer.inner == 1 else 1
    kept = cuts.kept(consumer.weight)[dim]
    if kept is None or consumer.groups == 1 or consumer.inner == 0:
        return None if kept is None else torch.as_tensor(kept)
    each = consumer.weight.shape[0] // consumer.groups
    places = torch.full((consumer.groups,), -1)
    places[groups] = torch.arange(len(groups))
    index = torch.as_tensor(kept)
    return places[index // each] * each + index % each

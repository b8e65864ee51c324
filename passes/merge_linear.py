"""merge_linear: two linear operations in a row, with nothing between them, become one.

`W' (W x + b) + b' = (W' W) x + (W' b + b')`, where one of the two reads each place by itself: two
linear layers; a 1 x 1 convolution in front of another, or behind it. In front of one that pads with
zeros, b must be zero: the padding is not moved by it. Merged are those that do not grow: a narrow
layer between two wide ones saves more than it costs.
"""

from __future__ import annotations

import torch

from graphprune.core.graph import Op
from graphprune.core.rewrites import Draft, Drop, Rewrite
from graphprune.engine.linear import Linear, border, linear
from graphprune.passes.rewrite import rewritten
from graphprune.pipeline import Outcome, Pass, Work


class MergeLinear(Pass):
    """Merge linear operations that follow one another.

    - Requires: a captured model; nothing found of it yet.
    - Ensures: the same results; no two linear operations follow one another that could be one of
      no more parameters, but for those it names, with the reason.
    """

    name = "merge_linear"
    prepares = True

    def run(self, work: Work) -> Outcome:
        """Merge until there is nothing left to merge."""
        return rewritten(work, merge, "merged", "merge")


def merge(draft: Draft, op: Op) -> Rewrite | str | None:
    """The rewrite that merges an operation and the one before it; why not, None for any other.

    Args:
        draft: The graph.
        op: The second of the two.
    """
    second = linear(op, draft)
    if not isinstance(second, Linear):
        return None
    maker = draft.makers().get(second.read.source)
    first = None if maker is None else linear(maker, draft)
    if not isinstance(first, Linear) or not first.read.ends:
        return None
    result, at = first.result()
    if len(draft.readers()[result]) > 1 or at != second.read.channel % len(result.shape):
        return None
    if len(first.weight) > 1 or len(second.weight) > 1:
        return f"{first.op.name} and it are in groups" if _grouped(first, second) else None
    if not (first.read.pointwise or second.read.pointwise):
        return None
    weight = _product(first, second)
    if weight.numel() > first.weight.numel() + second.weight.numel():
        return None
    old = torch.zeros(first.outputs).to(weight) if first.bias is None else first.bias
    engine = draft.source.engine
    if bool(old.any()) and first.read.pointwise and (why := border(op, second.read, engine)):
        return f"it cannot take the bias of {first.op.name}: {why}"
    added = (second.weight * second.over_channels(old)).flatten(2).sum(2).reshape(-1)
    bias = added if second.bias is None else added + second.bias
    kept, gone = (second, first) if first.read.pointwise else (first, second)
    if not kept.takes_bias(bias):
        return f"{kept.op.name} takes no bias"
    drop = Drop(gone.op.name, gone.op.inputs.index(gone.read.source))
    what = f"{gone.op.name} into {kept.op.name}"
    return Rewrite(op.name, what, (*kept.steps(weight, bias), drop))


def _grouped(first: Linear, second: Linear) -> bool:
    """Whether only their groups keep two operations apart."""
    return first.read.pointwise or second.read.pointwise


def _product(first: Linear, second: Linear) -> torch.Tensor:
    """The weights of both, with the taps of the one that has any."""
    a, b = first.weight[0], second.weight[0]
    if first.read.pointwise:
        return torch.einsum("om...,mc->oc...", b, a.flatten(1).reshape(a.shape[:2])).unsqueeze(0)
    return torch.einsum("om,mc...->oc...", b.flatten(1).reshape(b.shape[:2]), a).unsqueeze(0)


__all__ = ["MergeLinear", "merge"]

"""merge_branches: linear branches of one value that are added together become one.

`W x + W' x = (W + W') x`, where the smaller kernel is laid into the middle of the larger one, and
`W x + s x + t = (W + diag(s)) x + t`, where diag(s) stands at the middle tap: identities and batch
norms beside convolutions (RepVGG: Ding et al., 2021, section 3.3; MobileOne: Vasu et al., 2023).
Whether the middle is the middle (strides, padding, dilation) is asked of the operations: on small
random inputs, one with the other's kernel must do what the other does.
"""

from __future__ import annotations

import torch

from graphprune.core.graph import Op, Value
from graphprune.core.rewrites import Draft, Drop, Rewrite
from graphprune.engine.linear import Linear, linear
from graphprune.engine.scales import Scale, is_one, scale_of
from graphprune.engine.tensors import difference
from graphprune.passes.rewrite import rewritten
from graphprune.pipeline import Outcome, Pass, Work
from graphprune.rules.facts import adds

_EXACT = 1e-12  # relative: rounding of a sum in another order, in double precision


class MergeBranches(Pass):
    """Merge linear branches that are added together.

    - Requires: a captured model; nothing found of it yet.
    - Ensures: the same results; no sum is left of branches that could be one operation, but for
      those it names, with the reason.
    """

    name = "merge_branches"
    prepares = True

    def run(self, work: Work) -> Outcome:
        """Merge until there is nothing left to merge."""
        return rewritten(work, merge, "merged", "merge")


def merge(draft: Draft, op: Op) -> Rewrite | str | None:
    """The rewrite that merges the two operands of a sum; why not, None for any other.

    Args:
        draft: The graph.
        op: The sum.
    """
    operands = [value for value in op.inputs if value is not None]
    if not adds(op) or len(operands) != 2 or len(op.inputs) != 2:
        return None
    if operands[0].shape != operands[1].shape or operands[0] is operands[1]:
        return None
    neutral = [_neutral(draft, value) for value in operands]
    operands = [
        value if op is None else op.found.source
        for value, op in zip(operands, neutral, strict=True)
    ]
    branches = [_branch(draft, value) for value in operands]
    orders = [(0, 1), (1, 0)]
    one, other = branches
    if isinstance(one, Linear) and isinstance(other, Linear):
        orders.sort(key=lambda order: -_taps(branches[order[0]]))
    why: str | None = None
    for at, off in orders:
        kept, gone = branches[at], branches[off]
        if not isinstance(kept, Linear) or isinstance(gone, str):
            continue
        if not _same_source(kept, gone, operands[off]):
            continue
        found = _merged(draft, op, at, kept, gone, neutral[at])
        if isinstance(found, Rewrite):
            return found
        why = why or found
    return why


def _neutral(draft: Draft, value: Value) -> Scale | None:
    """What changes nothing on the way to a sum, such as one that begins with zero."""
    maker = draft.makers().get(value)
    found = None if maker is None else scale_of(draft, maker)
    if found is None or not is_one(found) or len(draft.readers()[value]) > 1:
        return None
    return found


def _taps(branch: object) -> int:
    return branch.weight[0, 0, 0].numel() if isinstance(branch, Linear) else 0


def _branch(draft: Draft, value: Value) -> Linear | Scale | str | None:
    """What a branch does; None for one that hands on what it reads, a reason for any other."""
    maker = draft.makers().get(value)
    if maker is None:
        return None
    found = linear(maker, draft)
    if isinstance(found, Linear) and found.read.ends and len(draft.readers()[value]) == 1:
        return found
    scale = scale_of(draft, maker)
    if scale is not None and scale.found.channel is not None and len(draft.readers()[value]) == 1:
        return scale
    return None


def _same_source(kept: Linear, gone: Linear | Scale | None, value: Value) -> bool:
    if gone is None:
        return kept.read.source is value
    source = gone.read.source if isinstance(gone, Linear) else gone.found.source
    return kept.read.source is source


def _merged(
    draft: Draft,
    op: Op,
    at: int,
    kept: Linear,
    gone: Linear | Scale | None,
    neutral: Scale | None,
) -> Rewrite | str | None:
    channel = kept.result()[1]
    shift: torch.Tensor | None = None
    if isinstance(gone, Linear):
        laid, shift = _laid_into(draft, kept, gone), gone.bias
    elif gone is not None and gone.found.channel != channel:
        return f"{gone.op.name} scales another dimension than the outputs of {kept.op.name}"
    else:
        scale = None if gone is None else gone.scale
        laid, shift = _as_diagonal(draft, kept, scale), None if gone is None else gone.shift
    if isinstance(laid, str):
        return laid
    zero = torch.zeros(kept.outputs).to(kept.weight)
    bias = (zero if kept.bias is None else kept.bias) + (zero if shift is None else shift)
    if not kept.takes_bias(bias):
        return f"{kept.op.name} takes no bias"
    name = "what they read" if gone is None else gone.op.name
    steps = kept.steps(kept.weight + laid, bias)
    what = f"{name} into {kept.op.name}"
    drops = [Drop(op.name, at)]
    if neutral is not None:
        drops.append(Drop(neutral.op.name, neutral.found.place))
    return Rewrite(op.name, what, (*steps, *drops), merges=gone is not None)


def _laid_into(draft: Draft, kept: Linear, gone: Linear) -> torch.Tensor | str:
    """The kernel of one operation in the middle of one like another's."""
    if kept.weight.shape[:3] != gone.weight.shape[:3] or kept.weight.dim() != gone.weight.dim():
        return f"{kept.op.name} and {gone.op.name} are of different groups"
    if kept.result()[1] != gone.result()[1] or kept.read.channel != gone.read.channel:
        return f"{kept.op.name} and {gone.op.name} read different dimensions"
    drawn = torch.rand(
        kept.weight.shape[0], 1, 1, *gone.weight.shape[3:],
        generator=torch.Generator().manual_seed(1), dtype=torch.float64,
    ).to(kept.weight.device)  # fmt: skip
    laid = _centred(drawn, kept.weight.shape[3:])
    x, engine = kept.small_input(1), draft.source.engine
    why = f"{kept.op.name} and {gone.op.name} meet different places: strides, padding or dilation"
    if laid is None:
        return why
    results = kept.response(laid, x, engine), gone.response(drawn, x, engine)
    if difference(results[1], results[0]) > _EXACT:
        return why
    made = _centred(gone.weight, kept.weight.shape[3:])
    return why if made is None else made


def _centred(weight: torch.Tensor, taps: torch.Size) -> torch.Tensor | None:
    """A kernel with zeros around it; None where it has no place in the middle."""
    spare = [wide - own for wide, own in zip(taps, weight.shape[3:], strict=True)]
    if any(more < 0 or more % 2 for more in spare):
        return None
    out = weight.new_zeros(*weight.shape[:3], *taps)
    inner = out
    for dim, (more, own) in enumerate(zip(spare, weight.shape[3:], strict=True), 3):
        inner = inner.narrow(dim, more // 2, own)
    inner.copy_(weight)
    return out


def _as_diagonal(draft: Draft, kept: Linear, scale: torch.Tensor | None) -> torch.Tensor | str:
    """A factor for each channel as the kernel of an operation."""
    groups, outputs, channels, *taps = kept.weight.shape
    if outputs != channels:
        return f"{kept.op.name} has other outputs than channels"
    eye = torch.eye(2).to(kept.weight).expand(groups, 2, 2).reshape(groups, 2, 2, *[1] * len(taps))
    small = _centred(eye, torch.Size(taps))
    x = kept.small_input(2)
    why = f"{kept.op.name} cannot hand on what it reads: strides or padding"
    if small is None or difference(x, kept.response(small, x, draft.source.engine)) > _EXACT:
        return why
    numbers = torch.ones(groups * outputs).to(kept.weight) if scale is None else scale
    diagonal = torch.diag_embed(numbers.reshape(groups, outputs))
    made = _centred(diagonal.reshape(groups, outputs, outputs, *[1] * len(taps)), torch.Size(taps))
    return why if made is None else made


__all__ = ["MergeBranches", "merge"]

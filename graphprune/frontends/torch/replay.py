"""What the parts of a model take while the whole model runs on calibration data."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence

import torch
from torch import nn
from torch.utils import _pytree as pytree

from graphprune.core.batch import Batch
from graphprune.core.errors import GraphPruneError
from graphprune.frontends.torch.parts import Parts, recorded
from graphprune.frontends.torch.recorder import Call

_MEMORY = 1 << 30  # bytes that what the parts take may hold at once


def replay(model: nn.Module, parts: Parts, given: Call, batches: Sequence[Batch]) -> list[Batch]:
    """Batches for a model that was captured in parts, as the captured graph takes them.

    The whole model runs on the data, and what each part takes is recorded. How much of it there
    is may depend on the data (regions that a detector looks at): rows that are too many are left
    out, and where they are too few some serve twice. Passes that call a part with other shapes, or
    not at all, are left out.

    Args:
        model: The whole model, in eval mode.
        parts: What was captured.
        given: The arguments that it was captured with.
        batches: The data, as the model takes it.

    Raises:
        GraphPruneError: No pass over the data calls every part with tensors of the captured shapes.
    """
    likes = [_tensors(call) for _, call in parts.calls]
    out: list[Batch] = []
    held = 0
    paths = {path for path, _ in parts.calls}
    for piece in (piece for batch in batches for piece in _pieces(batch, given)):
        calls = recorded(model, (piece.args, piece.kwargs), paths)
        most = max((len(same) for kinds in calls.values() for same in kinds), default=0)
        for turn in range(most):
            taken = _taken(parts, likes, calls, turn)
            if taken is not None:
                out.append(Batch(tuple(taken), samples=len(taken[0])))
                held += sum(x.nbytes for x in taken)
        if held > _MEMORY:
            break
    if not out:
        raise GraphPruneError(
            "data: no pass over it calls the captured parts as the example inputs did: pass "
            "example_inputs of data's shape"
        )
    return out


def _taken(
    parts: Parts,
    likes: Sequence[Sequence[torch.Tensor]],
    calls: Mapping[str, list[list[Call]]],
    turn: int,
) -> list[torch.Tensor] | None:
    """The tensors that the parts take, or None where some part takes others.

    A part that one pass calls again and again (a head on several levels) is taken in its turns.
    """
    seen: Counter[str] = Counter()
    out: list[torch.Tensor] = []
    for (path, _), wanted in zip(parts.calls, likes, strict=True):
        kinds = calls.get(path, [])
        same = kinds[seen[path]] if seen[path] < len(kinds) else []
        found = _tensors(same[turn % len(same)]) if same else []
        seen[path] += 1
        if len(found) != len(wanted):
            return None
        for tensor, like in zip(found, wanted, strict=True):
            if tensor.shape[1:] != like.shape[1:] or tensor.dim() != like.dim():
                return None
            if like.dim() and not len(tensor):
                return None
            rows = torch.arange(len(like)) % len(tensor) if like.dim() else ...
            out.append(tensor[rows])
    return out


def _pieces(batch: Batch, given: Call) -> Iterator[Batch]:
    """A batch in parts of as many samples as were captured, where all its tensors hold samples."""
    tensors, likes = _tensors((batch.args, batch.kwargs)), _tensors(given)
    sizes = {x.shape[:1] for x in likes}
    if len(sizes) == 1 and {x.shape[:1] for x in tensors} == {(batch.samples,)}:
        (captured,) = next(iter(sizes)) or (batch.samples,)
        if batch.samples > captured:
            yield from batch.split(captured)
            return
    yield batch


def _tensors(tree: object) -> list[torch.Tensor]:
    return [x for x in pytree.tree_leaves(tree) if isinstance(x, torch.Tensor)]

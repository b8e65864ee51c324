"""materialise: weights that are made of stored numbers alone are stored as they are.

1. `torch.nn.utils.prune`: `weight_orig * weight_mask`, computed by a hook, becomes `weight`.
2. A parametrization that multiplies by numbers that it keeps is carried out and taken off.
3. A module around another that multiplies the other's weights by masks goes (pruners of NNI).
4. What a node of a file makes of stored numbers alone, and is no larger than they are, is stored.
"""

from __future__ import annotations

import torch

from graphprune.core.graph import Op, Value
from graphprune.core.rewrites import Draft, Rewrite, Weigh
from graphprune.engine.engine import tried
from graphprune.passes.rewrite import rewrite
from graphprune.pipeline import Outcome, Pass, Work
from graphprune.rules.facts import is_random


class Materialise(Pass):
    """Multiply masks into the weights, on a copy of the model.

    - Requires: a captured model; nothing found of it yet.
    - Ensures: the same results; no weight is computed from another and a mask of stored numbers,
      but for those that the code of a module computes in its `forward`.
    """

    name = "materialise"
    prepares = True

    def run(self, work: Work) -> Outcome:
        """Put masks into the weights that they lie over."""
        program, names = work.program.materialised()
        if names:
            work.program = program
        products = rewrite(work, computed)
        if not names and not products:
            return self.unchanged("no masks")
        told = f"{len(names)} masks are in their weights now" if names else ""
        more = f"{products} products of stored numbers are stored" if products else ""
        return self.done("; ".join(filter(None, (told, more))))


def computed(draft: Draft, op: Op) -> Rewrite | None:
    """The rewrite that lets an operation read as stored what is made of stored numbers.

    Args:
        draft: The graph.
        op: The operation.
    """
    for place, value in enumerate(op.inputs):
        maker = None if value is None else draft.makers().get(value)
        if value is None or maker is None or len(draft.readers()[value]) > 1:
            continue
        made = _made(draft, maker, value)
        if made is not None:
            what = f"what {maker.name} makes is stored"
            return Rewrite(op.name, what, (Weigh(op.name, place, made),), slight=True)
    return None


def _made(draft: Draft, maker: Op, value: Value) -> torch.Tensor | None:
    """What an operation makes of stored numbers alone; None where it reads others.

    None, too, where it is larger than what nobody reads any more then: tied weights stay one.
    """
    read = [v for v in maker.inputs if v is not None]
    dtype = getattr(torch, value.dtype, None)
    if not read or len(maker.outputs) != 1 or is_random(maker):
        return None
    if not isinstance(dtype, torch.dtype) or not dtype.is_floating_point:
        return None
    if any(not v.is_weight or not isinstance(v.tensor, torch.Tensor) for v in read):
        return None
    if not read[0].tensor.is_floating_point():
        return None  # integers stand for it: what runs them looks for their scales
    size = torch.Size(value.shape).numel() * dtype.itemsize
    readers = draft.readers()
    spared = (v.tensor for v in read if len(readers[v]) == 1)
    if size > max((tensor.numel() * tensor.itemsize for tensor in spared), default=0):
        return None
    operands = [None if v is None else v.tensor.detach() for v in maker.inputs]
    results = tried(draft.source.engine, maker, operands, torch.float64)
    return None if results is None else results[0].to(dtype)


__all__ = ["Materialise", "computed"]

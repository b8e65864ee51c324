"""drop_noops: operations that hand on what they read go.

1. An operation that copies or moves the elements of its first operand, and whose result has the
   same shape, type and order: a dropout in inference, an identity, a cast to the same type, a
   reshape or an expansion to the shape that is there, a slice of everything, a transposition that
   moves nothing. Whether it moves any is asked of the operation, on numbers that all differ.
2. Two such operations in a row that undo one another: a transposition and its inverse.
3. A scale of one with a shift of zero.
4. For a file, what onnxslim takes out, where it is installed: constants that can be computed, sizes
   that are known, the same computed twice.
"""

from __future__ import annotations

import torch

from graphprune.core.errors import GraphPruneError, first_line
from graphprune.core.graph import Op, Value
from graphprune.core.rewrites import Draft, Drop, Rewrite
from graphprune.engine.run import along
from graphprune.engine.scales import is_one, scale_of
from graphprune.passes.rewrite import check, rewrite
from graphprune.pipeline import Outcome, Pass, Work
from graphprune.rules.facts import copies, moves


class DropNoops(Pass):
    """Take out operations that hand on what they read.

    - Requires: a captured model; nothing found of it yet.
    - Ensures: the same results; no operation is left that hands on what it reads and that the model
      can do without as it is written: no code is generated for it.
    """

    name = "drop_noops"
    prepares = True

    def run(self, work: Work) -> Outcome:
        """Drop until there is nothing left to drop."""
        tidied = _tidied(work)
        gone = rewrite(work, noop)
        if not gone and not tidied:
            return self.unchanged("nothing to drop")
        return self.done(f"{gone} dropped" + (f", {tidied} by onnxslim" if tidied else ""))


def _tidied(work: Work) -> int:
    """Let the format's own tool take out what it does well; how many operations went."""
    program = work.program
    try:
        tidied = program.tidied()
        if tidied is None:
            return 0
        if work.asked.verify:
            check(program.graph, tidied.graph, program.flat_inputs())
    except GraphPruneError as error:
        work.left["the file as a whole"] = first_line(error)
        return 0
    work.program = tidied
    return len(program.graph.ops) - len(tidied.graph.ops)


def noop(draft: Draft, op: Op) -> Rewrite | str | None:
    """The rewrite that drops an operation, alone or with the one before it; None for any other.

    Args:
        draft: The graph.
        op: The operation.
    """
    if len(op.outputs) != 1 or not op.inputs or op.inputs[0] is None:
        return None
    if not (moves(op) or copies(op)):
        return _neutral(draft, op)
    source = op.inputs[0]
    if _hands_on(draft, [op], source, op.outputs[0]):
        return Rewrite(op.name, f"{op.name} hands on what it reads", (Drop(op.name),), slight=True)
    before = draft.makers().get(source)
    if before is None or not (moves(before) or copies(before)) or before.inputs[0] is None:
        return None
    if len(before.outputs) != 1 or len(draft.readers()[source]) != 1:
        return None
    if _hands_on(draft, [before, op], before.inputs[0], op.outputs[0]):
        both = Drop(before.name), Drop(op.name)
        return Rewrite(op.name, f"{before.name} and {op.name} undo one another", both, slight=True)
    return None


def _neutral(draft: Draft, op: Op) -> Rewrite | None:
    """The rewrite that drops a factor of one or a summand of zero."""
    scale = scale_of(draft, op)
    if scale is None or not is_one(scale):
        return None
    drop = Drop(op.name, scale.found.place)
    return Rewrite(op.name, f"{op.name} changes nothing", (drop,), slight=True)


def _hands_on(draft: Draft, ops: list[Op], source: Value, result: Value) -> bool:
    """Whether operations in a row give the elements of what they read, in their order."""
    if source.shape != result.shape or source.dtype != result.dtype or source.is_weight:
        return False
    whole = getattr(torch, source.dtype, None)
    if not isinstance(whole, torch.dtype) or any(op.source is None for op in ops):
        return False
    number = torch.Size(source.shape).numel()
    kind = torch.float64 if whole.is_floating_point else whole
    given = (torch.arange(number) + 1).to(kind).reshape(source.shape)
    if any(v is not None and v.tensor is None for op in ops for v in op.inputs[1:]):
        return False
    try:
        made = along(draft.source, ops, source, given)
    except (GraphPruneError, RuntimeError):
        return False
    return made.shape == given.shape and bool((made == given).all())


__all__ = ["DropNoops", "noop"]

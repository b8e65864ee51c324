"""lower: the narrowed graph as a module of the caller's own class.

1. The model is copied with narrowed tensors; `torch.nn` modules get their new sizes.
2. The other attributes that hold lengths get the values that the survey found; entries that tell
   the channels of a module are written anew.
3. Softmax scales that PyTorch derives from head_dim are folded into the query weights.
4. Modules whose code cannot express the new widths are replaced by generated ones; the rest of
   the model keeps its classes.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping

import torch
from torch.utils import _pytree as pytree

from graphprune.core.errors import LiftError
from graphprune.engine.state import preserved, quiet
from graphprune.frontends.torch.attributes import apply_edits
from graphprune.frontends.torch.captured import CapturedModule
from graphprune.frontends.torch.compare import blamed
from graphprune.frontends.torch.emit import emit
from graphprune.frontends.torch.findings import Call, Findings
from graphprune.frontends.torch.fold import fold_into
from graphprune.frontends.torch.lowered import Lowered
from graphprune.frontends.torch.rebuild import rebuild
from graphprune.frontends.torch.survey import Survey, calls_of, survey
from graphprune.frontends.torch.tagged import Place
from graphprune.frontends.torch.told import retell


def lower(
    captured: CapturedModule,
    found: Survey,
    offenders: Mapping[str, str] | None = None,
    inline: bool = False,
    rigid: bool = False,
) -> Lowered:
    """Make the smaller module.

    Args:
        captured: The captured model.
        found: What its code can express.
        offenders: Modules to replace whatever the survey says, with the reason.
        inline: Whether generated code repeats what modules do instead of calling them: where it
            is not known which of them computes something else.
        rigid: Whether generated code refuses all sizes, types and modes but those of the capture.

    Raises:
        LiftError: The model cannot be copied, or not even generated code can replace it.
    """
    out = Lowered(rebuild(captured, found.cuts), folds=found.folds, inline=inline)
    fold_into(out.model, found.folds)
    apply_edits(out.model, found.edits)
    retell(out.model, captured, found.cuts)
    out.edits = {_text(place): value for place, value in found.edits.items()}
    offenders = {**found.offenders, **(offenders or {})}
    if offenders:
        _generate(captured, found, out, offenders, calls_of(captured, found), inline, rigid)
    return out


def _text(place: Place) -> str:
    path, attr, index = place
    name = f"{path}.{attr}" if path else attr
    return name if index is None else f"{name}[{index}]"


def _generate(
    captured: CapturedModule,
    found: Survey,
    out: Lowered,
    offenders: Mapping[str, str],
    original: Findings,
    inline: bool,
    rigid: bool,
) -> None:
    """Give each offending module other code; one that cannot be passes it on to its parent.

    What a module calls goes first, for its parent may then call it as before.
    """
    known = original.calls.get("")
    if not known or _has_tensors(known[0]):  # an exported program's own call is not followed
        original.calls[""] = [whole_call(captured)]
    todo = dict(offenders)
    while todo:
        path = max(todo, key=lambda p: p.count(".") + bool(p))
        why = todo.pop(path)
        if path in out.replaced:
            continue
        try:
            root = out.model.get_submodule(path)
            emit(captured, found.cuts, path, original, root, inline, rigid=rigid)
        except (LiftError, TypeError) as error:
            if not path:
                raise LiftError(f"the model cannot be generated either: {error}") from error
            todo.setdefault(path.rpartition(".")[0], why)
            continue
        out.replaced[path] = why


def more_generated(
    captured: CapturedModule, found: Survey, lowered: Lowered, why: str
) -> tuple[Survey, Lowered]:
    """Lower again where a lowered module computes something else.

    Folded scales are given up first; then the modules whose own code is to blame are generated,
    and where they are not found, the whole.

    Args:
        captured: The captured model.
        found: What its code can express.
        lowered: The module that computes something else.
        why: What a comparison says.

    Returns:
        The survey, anew where no scales are folded, and the smaller module.
    """
    if lowered.folds:
        found = survey(captured, found.cuts, False, found.original)
        return found, lower(captured, found)
    known = calls_of(captured, found)
    blame = blamed(captured, found.cuts, lowered, known)
    if not blame.keys() <= lowered.replaced.keys():
        return found, lower(captured, found, {**lowered.replaced, **blame})
    return found, lower(captured, found, {"": why}, inline=True)


def _has_tensors(call: Call) -> bool:
    """Whether a call takes or returns tensors that are no values of the graph."""
    return any(isinstance(x, torch.Tensor) for x in pytree.tree_leaves((call.args, call.result)))


def whole_call(captured: CapturedModule) -> Call:
    """The call of the whole model, in terms of the graph's values."""
    args, kwargs = captured.inputs
    with preserved(captured.model), torch.no_grad(), quiet():
        captured.model.eval()
        result = captured.model(*args, **kwargs)
    found = [x for x in pytree.tree_leaves(result) if isinstance(x, torch.Tensor)]
    values = captured.graph.outputs[: len(found)]
    if [v.shape for v in values] != [tuple(x.shape) for x in found]:
        raise LiftError("the model returns tensors that are not in the graph")
    taken, made = iter(captured.graph.inputs), iter(values)
    return Call(
        pytree.tree_map_only(torch.Tensor, lambda _: next(taken), captured.inputs),
        pytree.tree_map_only(torch.Tensor, lambda _: next(made), result),
        Counter(),
    )

"""lower: the narrowed graph as a module of the caller's own class.

1. The model is copied with narrowed tensors; `torch.nn` modules get their new sizes.
2. The other attributes that hold lengths get the values that the survey found.
3. Softmax scales that PyTorch derives from head_dim are folded into the query weights.
4. Modules whose code cannot express the new widths are replaced by generated ones; the rest of
   the model keeps its classes.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field

import torch
from torch import nn
from torch.utils import _pytree as pytree

from graphprune.core.errors import LiftError
from graphprune.engine.state import preserved, quiet
from graphprune.frontends.torch.attributes import apply_edits
from graphprune.frontends.torch.emit import emit
from graphprune.frontends.torch.findings import Call, Findings
from graphprune.frontends.torch.lift import TorchProgram
from graphprune.frontends.torch.rebuild import rebuild
from graphprune.frontends.torch.scale import Fold, fold_into
from graphprune.frontends.torch.survey import Survey, calls_of
from graphprune.frontends.torch.tagged import Place


@dataclass
class Lowered:
    """The smaller module.

    Attributes:
        model: The module.
        replaced: Paths of submodules that are generated code now, with the reason; the path ""
            means the whole model.
        edits: Attributes with new values, as `path.attribute`.
        folds: Scales folded into weights.
    """

    model: nn.Module
    replaced: dict[str, str] = field(default_factory=dict)
    edits: dict[str, int] = field(default_factory=dict)
    folds: list[Fold] = field(default_factory=list)

    @property
    def folded(self) -> list[str]:
        """Names of the weights into which a scale was folded."""
        return [fold.weight.name for fold in self.folds]


def lower(
    program: TorchProgram, found: Survey, offenders: Mapping[str, str] | None = None
) -> Lowered:
    """Make the smaller module.

    Args:
        program: The captured model.
        found: What its code can express.
        offenders: Modules to replace whatever the survey says, with the reason.

    Raises:
        LiftError: The model cannot be copied, or not even generated code can replace it.
    """
    out = Lowered(rebuild(program, found.cuts), folds=found.folds)
    fold_into(out.model, found.folds)
    apply_edits(out.model, found.edits)
    out.edits = {_text(place): value for place, value in found.edits.items()}
    offenders = {**found.offenders, **(offenders or {})}
    if offenders:
        _generate(program, found, out, offenders, calls_of(program, found))
    return out


def _text(place: Place) -> str:
    path, attr, index = place
    name = f"{path}.{attr}" if path else attr
    return name if index is None else f"{name}[{index}]"


def _generate(
    program: TorchProgram,
    found: Survey,
    out: Lowered,
    offenders: Mapping[str, str],
    original: Findings,
) -> None:
    """Give each offending module other code; one that cannot be passes it on to its parent.

    What a module calls goes first, for its parent may then call it as before.
    """
    if not original.calls.get(""):
        original.calls[""] = [_whole(program)]
    todo = dict(offenders)
    while todo:
        path = max(todo, key=lambda p: p.count(".") + bool(p))
        why = todo.pop(path)
        if path in out.replaced:
            continue
        try:
            emit(program, found.cuts, path, original, out.model.get_submodule(path))
        except (LiftError, TypeError) as error:
            if not path:
                raise LiftError(f"the model cannot be generated either: {error}") from error
            todo.setdefault(path.rpartition(".")[0], why)
            continue
        out.replaced[path] = why


def _whole(program: TorchProgram) -> Call:
    """The call of the whole model, in terms of the graph's values."""
    args, kwargs = program.inputs
    with preserved(program.model), torch.no_grad(), quiet():
        program.model.eval()
        result = program.model(*args, **kwargs)
    found = [x for x in pytree.tree_leaves(result) if isinstance(x, torch.Tensor)]
    values = program.graph.outputs[: len(found)]
    if [v.shape for v in values] != [tuple(x.shape) for x in found]:
        raise LiftError("the model returns tensors that are not in the graph")
    taken, made = iter(program.graph.inputs), iter(values)
    return Call(
        pytree.tree_map_only(torch.Tensor, lambda _: next(taken), program.inputs),
        pytree.tree_map_only(torch.Tensor, lambda _: next(made), result),
        Counter(),
    )

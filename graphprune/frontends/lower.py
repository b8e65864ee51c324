"""lower: the narrowed graph as a module of the caller's own class.

1. The model is copied with narrowed tensors; `torch.nn` modules get their new sizes.
2. A guided pass on fake tensors finds which other attributes hold lengths, and which modules
   cannot express the new widths. Attributes get their new values.
3. Softmax scales that PyTorch derives from head_dim are folded into the query weights.
4. Modules that cannot follow are replaced by generated ones; the rest of the model keeps its
   classes.
5. The result is compared with the rewritten graph.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

import torch
from torch import nn
from torch.utils import _pytree as pytree

from graphprune.errors import LiftError, VerifyError
from graphprune.frontends.attributes import Place, apply_edits, described
from graphprune.frontends.emit import covered, emit, replace
from graphprune.frontends.execute import cut_tensor, evaluate
from graphprune.frontends.guide import Findings, guide
from graphprune.frontends.rebuild import rebuild
from graphprune.frontends.scale import Fold, find_folds, fold_into, folded
from graphprune.frontends.torch import TorchProgram, preserved
from graphprune.graph import Value
from graphprune.passes.narrow import Cuts
from graphprune.passes.verify import difference


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


def lower(
    program: TorchProgram,
    cuts: Cuts,
    fold: bool = True,
    offenders: Mapping[str, str] | None = None,
) -> Lowered:
    """Make the smaller module.

    Args:
        program: The captured model.
        cuts: The narrowed graph.
        fold: Whether scales may be folded into weights; if not, attention whose scale depends
            on a length that changes is replaced.
        offenders: Modules to replace whatever the guided pass says, with the reason.

    Raises:
        LiftError: The model cannot be copied, or not even generated code can replace it.
    """
    out = Lowered(rebuild(program, cuts))
    if fold:
        out.folds, cuts = find_folds(program, cuts)
        fold_into(out.model, out.folds)
    edits, found, original = _findings(program, cuts, out.model)
    apply_edits(out.model, edits)
    out.edits = {_place(*key): value for key, value in edits.items()}
    offending = {**found.offenders, **(offenders or {})}
    offenders = {p: why for p, why in offending.items() if not covered(p, offending)}
    if offenders:
        original = original or guide(program, program.model, _nothing(cuts))
        _replace(program, cuts, out, offenders, original)
    return out


def _findings(
    program: TorchProgram, cuts: Cuts, model: nn.Module
) -> tuple[dict[Place, int], Findings, Findings | None]:
    """New attribute values, what cannot follow, and (where it was needed) the original's calls.

    Attributes that agree with the module's own weights are set first; where modules fail all
    the same, the pass is tried without them, and the better one counts.
    """
    guesses = described(program, cuts)
    apply_edits(model, guesses)
    first, original = _guided(program, cuts, model, None)
    if not first.offenders or not guesses:
        return {**guesses, **first.edits}, first, original
    apply_edits(model, {place: _held(program.model, place) for place in guesses})
    second, original = _guided(program, cuts, model, original)
    if len(second.offenders) < len(first.offenders):
        return second.edits, second, original
    return {**guesses, **first.edits}, first, original


def _held(model: nn.Module, place: Place) -> int:
    return int(model.get_submodule(place[0]).__dict__[place[1]])


def _guided(
    program: TorchProgram, cuts: Cuts, model: nn.Module, original: Findings | None
) -> tuple[Findings, Findings | None]:
    try:
        return guide(program, model, cuts, original), original
    except Exception:
        original = original or guide(program, program.model, _nothing(cuts))
    try:
        return guide(program, model, cuts, original), original
    except Exception as error:
        failed = Findings()
        failed.offenders[""] = (str(error).splitlines() or [type(error).__name__])[0]
        return failed, original


def _nothing(cuts: Cuts) -> Cuts:
    return Cuts(cuts.deps, {})


def _place(path: str, attr: str, index: int | None) -> str:
    name = f"{path}.{attr}" if path else attr
    return name if index is None else f"{name}[{index}]"


def _replace(
    program: TorchProgram,
    cuts: Cuts,
    out: Lowered,
    offenders: Mapping[str, str],
    original: Findings,
) -> None:
    """Replace each offending module; one that cannot be replaced passes it on to its parent."""
    todo = dict(offenders)
    while todo:
        path, why = todo.popitem()
        if covered(path, out.replaced):
            continue
        calls = original.calls.get(path, [])
        try:
            if not calls:
                raise LiftError(f"{path} is never called as a module")
            new = emit(program, cuts, path, calls[0], out.model.get_submodule(path))
        except (LiftError, TypeError) as error:
            if not path:
                raise LiftError(f"the model cannot be generated either: {error}") from error
            todo.setdefault(path.rpartition(".")[0], why)
            continue
        out.model = replace(out.model, path, new)
        out.replaced = {p: w for p, w in out.replaced.items() if not covered(p, {path})}
        out.replaced[path] = why


def compare(program: TorchProgram, cuts: Cuts, lowered: Lowered) -> float:
    """Run the lowered module and the rewritten graph on the example inputs.

    Gains and statistics are perturbed in both alike: a branch that starts at zero would hide a
    difference.

    Returns:
        The largest relative difference between their results.

    Raises:
        VerifyError: They differ by more than rounding, or in shape.
    """
    values = _perturbed(program, cuts)
    expected = _run(program, cuts, values)
    model = lowered.model
    given = folded(values, lowered.folds)
    by_name = {name: t for v, t in given.items() for name in (v.name, *v.aliases)}
    named = {**dict(model.named_parameters()), **dict(model.named_buffers())}
    swap = {name: by_name[name] for name in named if name in by_name}
    args, kwargs = pytree.tree_map_only(torch.Tensor, torch.clone, program.inputs)
    with preserved(model), torch.no_grad():
        model.eval()
        try:
            found = torch.func.functional_call(model, swap, args, kwargs)
        except Exception as error:
            raise VerifyError(
                f"the smaller {type(model).__name__} does not run: {error}", "", float("inf")
            ) from error
    tensors = [x for x in pytree.tree_leaves(found) if isinstance(x, torch.Tensor)]
    worst = 0.0
    for value, wanted, tensor in zip(program.graph.outputs, expected, tensors, strict=False):
        gap = difference(wanted.double(), tensor.double())
        if gap > _tolerance(wanted):
            raise VerifyError(
                f"the smaller module differs from the rewritten graph at output {value.name}: "
                f"largest relative difference {gap:.3g}",
                value.name,
                gap,
            )
        worst = max(worst, gap)
    return worst


def _perturbed(program: TorchProgram, cuts: Cuts) -> dict[Value, torch.Tensor]:
    """The narrowed weights, vectors and weights near zero moved off their start."""
    out: dict[Value, torch.Tensor] = {}
    generator = torch.Generator().manual_seed(0)
    for value in program.graph.weights.values():
        tensor = cut_tensor(value.tensor.detach(), cuts.weights.get(value, ()))
        if tensor.is_floating_point() and (tensor.dim() < 2 or not bool(tensor.any())):
            noise = torch.rand(tensor.shape, generator=generator).to(tensor)
            positive = bool((tensor > 0).all()) and float(tensor.mean()) > 1e-3
            tensor = tensor * (0.75 + noise / 2) if positive else tensor + 0.1 * (noise - 0.5)
        out[value] = tensor
    return out


def _run(program: TorchProgram, cuts: Cuts, values: Mapping[Value, torch.Tensor]) -> list[torch.Tensor]:
    """Results of the rewritten graph for the example inputs."""
    env: dict[Value, torch.Tensor] = dict(values)
    inputs = (tensor.clone() for tensor in program.flat_inputs())
    env.update(zip(program.graph.inputs, inputs, strict=True))
    for op in program.graph.ops:
        operands = [None if value is None else env[value] for value in op.inputs]
        env.update(zip(op.outputs, evaluate(op, operands, cuts.attrs.get(op, {})), strict=True))
    return [env[value] for value in program.graph.outputs if value in env]


def _tolerance(tensor: torch.Tensor) -> float:
    """Rounding that a sum in another order may cause, by precision."""
    return 1e3 * torch.finfo(tensor.dtype).eps if tensor.is_floating_point() else 0.0

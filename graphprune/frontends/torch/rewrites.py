"""rewrites: a copy of a module that computes what a draft of its graph says.

1. Weights get their new numbers under their own names; a layer without a bias gets one.
2. A module all of whose operations went, and that hands on what it takes, becomes `nn.Identity`.
3. The smallest modules around all else that went get generated code, which calls what is left of
   the modules in them. What nothing reads any more is taken out.
4. The copy is captured anew.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import nn
from torch.utils import _pytree as pytree

from graphprune.core.cuts import Cuts
from graphprune.core.errors import LiftError
from graphprune.core.graph import Op, Value
from graphprune.core.groups import Dependencies
from graphprune.core.rewrites import Draft, Drop, Rewrite, Weigh
from graphprune.frontends.torch.captured import CapturedModule
from graphprune.frontends.torch.emit import emit
from graphprune.frontends.torch.findings import Call, Findings
from graphprune.frontends.torch.gone import Gone, lies_in, module_at, paths_of
from graphprune.frontends.torch.lift import lift
from graphprune.frontends.torch.lower import whole_call
from graphprune.frontends.torch.reader import bound_arguments
from graphprune.frontends.torch.rebuild import laid_out, rebuild, settle
from graphprune.frontends.torch.shortened import shorten
from graphprune.frontends.torch.survey import Survey, calls_of

_MODES = ("training", "train")  # what operations that depend on the mode call it
_HOOKS = ("_forward_hooks", "_forward_pre_hooks", "_backward_hooks", "_backward_pre_hooks")


def refuses(captured: CapturedModule, rewrite: Rewrite, draft: Draft, code: bool = True) -> str:
    """Why a rewrite cannot be made of a module, or nothing.

    Args:
        captured: The captured module.
        rewrite: The rewrite.
        draft: The graph that it was found on.
        code: Whether code may be generated for it.
    """
    if captured.original is not None:
        return "the model was captured in parts"
    ops = {op.name: op for op in draft.source.ops}
    touched = [ops[step.op] for step in rewrite.steps]
    if not _recoded(draft, ops, rewrite):
        if rewrite.slight:
            ops_in = Counter(op.module for op in draft.source.ops)
            layers = {op.module for op in draft.source.ops} & captured.layers
            if not all(op.module in layers and ops_in[op.module] == 1 for op in touched):
                return "it would need generated code, and saves little"
        if not (code or rewrite.merges) and any(isinstance(s, Drop) for s in rewrite.steps):
            trial = draft.copied()
            trial.make(rewrite)
            if Gone(captured, trial).needs_code(rewrite.steps):
                return "it would need generated code"
    modules = dict(captured.model.named_modules(remove_duplicate=False))
    for op in touched:
        module = modules.get(op.module)
        if any(name in op.attrs for name in _MODES) and module is not None and module.training:
            return f"{op.module or 'the model'} is in training mode: call eval() first"
    for path in dict.fromkeys(path for op in touched for path in paths_of(op.module)):
        inside = [lies_in(op, path) for op in touched]
        dropped = any(isinstance(s, Drop) and ops[s.op].module == path for s in rewrite.steps)
        if _hooked(modules.get(path)) and (not all(inside) or dropped):
            return f"{path or 'the model'} has hooks, which would see other numbers"
    for step in rewrite.steps:
        if isinstance(step, Weigh) and (why := _unheld(captured, ops[step.op], step)):
            return why
    return ""


def _recoded(draft: Draft, ops: Mapping[str, Op], rewrite: Rewrite) -> bool:
    """Whether what goes lies in the code of modules that need other code already."""
    known = {
        ops[step.op].module
        for made in draft.made
        for step in made.steps
        if made.merges and isinstance(step, Drop)
    }
    return bool(known) and all(
        ops[step.op].module in known for step in rewrite.steps if isinstance(step, Drop)
    )


def _hooked(module: nn.Module | None) -> bool:
    return module is not None and any(getattr(module, name, None) for name in _HOOKS)


def _unheld(captured: CapturedModule, op: Op, step: Weigh) -> str:
    """Why an operation's operand is nothing that a module holds."""
    value = op.inputs[step.place]
    if value is None:
        name = _argument(op, step.place)
        module = module_at(captured.model, op.module)
        held = None if module is None else module._parameters
        if op.module not in captured.layers or held is None or held.get(name, module) is not None:
            return f"the code of {op.module or 'the model'} gives {op.type} no {name}"
        return ""
    names = {*dict(captured.model.named_parameters(remove_duplicate=False))}
    names |= {*dict(captured.model.named_buffers(remove_duplicate=False))}
    held_as = [name for name in (value.name, *value.aliases) if name in names]
    return "" if held_as else f"{value.name} is made by the code, and no weight of the model"


def _argument(op: Op, place: int) -> str:
    """What an operation calls an operand that is absent."""
    names: list[str] = []
    for name, tensors, given in bound_arguments(op.source):
        if isinstance(given, torch.fx.Node) or (tensors and given is None):
            names.append(name)
        elif isinstance(given, list | tuple) and any(isinstance(g, torch.fx.Node) for g in given):
            names += [name] * len(given)
    return names[place]


def rewritten(captured: CapturedModule, draft: Draft, deps: Dependencies) -> CapturedModule:
    """The captured copy of a module that computes what a draft says.

    Args:
        captured: The captured module.
        draft: Its graph, rewritten.
        deps: The analysis of its graph.

    Raises:
        LiftError: The copy cannot be made, or cannot be captured.
    """
    cuts = Cuts(deps, {})
    model = rebuild(captured, cuts)
    _Copy(captured, draft, cuts, model).change()
    return lift(model, captured.inputs)


class _Copy:
    """A copy of the module, being changed."""

    def __init__(
        self, captured: CapturedModule, draft: Draft, cuts: Cuts, model: nn.Module
    ) -> None:
        self._captured, self._draft, self._cuts, self._model = captured, draft, cuts, model
        self._source = {op.name: op for op in draft.source.ops}
        self._alive = {op.name for op in draft.ops}
        self._gone = Gone(captured, draft)
        self._set: set[str] = set()

    def change(self) -> None:
        """Make all changes."""
        for (name, place), value in self._draft.operands.items():
            if name in self._alive:
                self._weigh(self._source[name], place, value)
        idle = self._gone.idle()
        roots = self._gone.roots(idle)
        for path in idle:
            self._replace(path)
        self._clear()
        self._recode(roots)
        for module in self._model.modules():
            settle(module)

    # --- weights ----------------------------------------------------------------------------

    def _weigh(self, op: Op, place: int, value: Value | None) -> None:
        held = op.inputs[place]
        if held is None:
            assert value is not None
            name = f"{op.module}.{_argument(op, place)}".lstrip(".")
            like = next(v for v in op.inputs if v is not None and v.kind == "parameter")
            self._assign(name, nn.Parameter(value.tensor, like.tensor.requires_grad))
            value.aliases = (name,)
            return
        names = (held.name, *held.aliases)
        if value is None:
            for name in names:
                self._assign(name, None)
            return
        value.aliases = names
        tensor = laid_out(value.tensor, held.tensor)
        if isinstance(held.tensor, nn.Parameter):
            tensor = nn.Parameter(tensor, held.tensor.requires_grad)
        for name in names:
            self._assign(name, tensor)

    def _assign(self, name: str, tensor: torch.Tensor | None) -> None:
        path, _, attr = name.rpartition(".")
        module = module_at(self._model, path)
        kinds: Sequence[Any] = () if module is None else (module._parameters, module._buffers)
        for held in kinds:
            if attr in held:
                held[attr] = tensor
        self._set.add(name)

    # --- modules ----------------------------------------------------------------------------

    def _replace(self, path: str) -> None:
        parent, _, name = path.rpartition(".")
        holder = module_at(self._model, parent)
        old = module_at(self._model, path)
        if holder is not None and old is not None and not isinstance(old, nn.Identity):
            new = nn.Identity()
            new.training = old.training
            holder._modules[name] = new

    def _recode(self, roots: set[str]) -> None:
        """Let modules do without what went: by their own code where it can, else by other code."""
        if not roots:
            return
        found = calls_of(self._captured, Survey(self._cuts))
        if not found.calls.get(""):
            found.calls[""] = [whole_call(self._captured)]
        calls = {path: [self._standing(c) for c in held] for path, held in found.calls.items()}
        known = Findings(calls=calls)
        done: set[str] = set()
        while roots:
            path = max(roots, key=lambda p: p.count(".") + bool(p))
            roots.discard(path)
            if path in done or self._shortened(path, found.calls.get(path, ())):
                continue
            try:
                root = self._model.get_submodule(path)
                emit(self._captured, self._cuts, path, known, root, draft=self._draft)
            except (LiftError, TypeError) as error:
                if not path:
                    raise LiftError(f"the model's code cannot be generated: {error}") from error
                roots.add(path.rpartition(".")[0])
                continue
            done.add(path)

    def _shortened(self, path: str, calls: Sequence[Call]) -> bool:
        """Whether a module's own code does without the branches that went."""
        if not calls:
            return False
        original = self._captured.model.get_submodule(path)
        branches = self._gone.branches(path)
        return shorten(original, self._model.get_submodule(path), calls[0], branches)

    def _standing(self, call: Call) -> Call:
        """A call in terms of the values that are left."""
        stands = self._draft.stands_for

        def mapped(tree: Any) -> Any:
            return pytree.tree_map_only(Value, stands, tree)

        outer = None if call.outer is None else (mapped(call.outer[0]), mapped(call.outer[1]))
        return Call(mapped(call.args), mapped(call.result), call.counters, outer)

    # --- what is left over --------------------------------------------------------------------

    def _clear(self) -> None:
        """Take out the weights that nothing reads any more, and modules that held nothing else."""
        for value in self._draft.unread():
            for name in {value.name, *value.aliases} - self._set:
                path, _, attr = name.rpartition(".")
                module = module_at(self._model, path)
                if module is None:
                    continue
                if path and not self._gone.is_used(path) and self._gone.ops_in(path):
                    self._replace(path)
                elif attr in module._parameters and not isinstance(module, nn.ParameterList):
                    module._parameters[attr] = None


__all__ = ["refuses", "rewritten"]

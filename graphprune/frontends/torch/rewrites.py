"""rewrites: a copy of a module that computes what a draft of its graph says.

1. Weights get their new numbers under their own names; a layer without a bias gets one.
2. A module all of whose operations went, and that hands on what it takes, becomes `nn.Identity`.
3. The smallest modules around all else that went get generated code, which calls what is left of
   the modules in them. What nothing reads any more is taken out.
4. The copy is captured anew.
"""

from __future__ import annotations

import inspect
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

import torch
from torch import nn
from torch.utils import _pytree as pytree

from graphprune.core.cuts import Cuts
from graphprune.core.errors import LiftError
from graphprune.core.graph import Op, Value
from graphprune.core.groups import Dependencies
from graphprune.core.rewrites import Draft, Drop, Rewrite, Step, Weigh
from graphprune.frontends.torch.emit import emit
from graphprune.frontends.torch.findings import Call, Findings
from graphprune.frontends.torch.lift import CapturedModule, lift
from graphprune.frontends.torch.lower import whole_call
from graphprune.frontends.torch.reader import bound_arguments
from graphprune.frontends.torch.rebuild import laid_out, rebuild, settle
from graphprune.frontends.torch.shortened import Branches, shorten
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
            if _Gone(captured, trial).needs_code(rewrite.steps):
                return "it would need generated code"
    modules = dict(captured.model.named_modules(remove_duplicate=False))
    for op in touched:
        module = modules.get(op.module)
        if any(name in op.attrs for name in _MODES) and module is not None and module.training:
            return f"{op.module or 'the model'} is in training mode: call eval() first"
    for path in dict.fromkeys(path for op in touched for path in _paths(op.module)):
        inside = [_lies_in(op, path) for op in touched]
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


def _paths(path: str) -> Iterator[str]:
    """A module's path, and those of the modules that it lies in."""
    while path:
        yield path
        path = path.rpartition(".")[0]
    yield ""


def _lies_in(op: Op, path: str) -> bool:
    return not path or op.module == path or _below(op.module, path)


def _below(path: str, root: str) -> bool:
    return path.startswith(f"{root}.") if root else bool(path)


def _hooked(module: nn.Module | None) -> bool:
    return module is not None and any(getattr(module, name, None) for name in _HOOKS)


def _unheld(captured: CapturedModule, op: Op, step: Weigh) -> str:
    """Why an operation's operand is nothing that a module holds."""
    value = op.inputs[step.place]
    if value is None:
        name = _argument(op, step.place)
        module = _module(captured.model, op.module)
        held = None if module is None else module._parameters
        if op.module not in captured.layers or held is None or held.get(name, module) is not None:
            return f"the code of {op.module or 'the model'} gives {op.type} no {name}"
        return ""
    names = {*dict(captured.model.named_parameters(remove_duplicate=False))}
    names |= {*dict(captured.model.named_buffers(remove_duplicate=False))}
    held_as = [name for name in (value.name, *value.aliases) if name in names]
    return "" if held_as else f"{value.name} is made by the code, and no weight of the model"


def _module(model: nn.Module, path: str) -> nn.Module | None:
    try:
        return model.get_submodule(path)
    except AttributeError:
        return None


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


class _Gone:
    """What went of a model: modules that hand on what they take, and those that need other code."""

    def __init__(self, captured: CapturedModule, draft: Draft) -> None:
        self._captured, self._draft = captured, draft
        self._source = {op.name: op for op in draft.source.ops}
        self._alive = {op.name for op in draft.ops}

    def needs_code(self, steps: Iterable[Step]) -> bool:
        """Whether operations that steps drop leave more behind than modules that hand on."""
        idle: dict[str, bool] = {}
        for step in steps:
            if not isinstance(step, Drop):
                continue
            op = self._source[step.op]
            for path in {op.module, *(other.module for other in self._swept(op))}:
                for outer in (outer for outer in _paths(path) if outer and outer not in idle):
                    idle[outer] = self._is_idle(outer)
                if not any(idle.get(outer) for outer in _paths(path)):
                    return True
        return False

    def idle(self) -> set[str]:
        """Paths of modules that hand on the only thing that they take."""
        return {path for path in self._modules() if self._is_idle(path)}

    def _modules(self) -> set[str]:
        """Paths of the modules in which operations went."""
        gone = (op for name, op in self._source.items() if name not in self._alive)
        return {op.module for op in gone} - {""}

    def _is_idle(self, path: str) -> bool:
        """Whether a module hands on the only thing that it takes."""
        ops = self.ops_in(path)
        if any(op.name in self._alive for op in ops):
            return False
        dropped = [op for op in ops if op.name in self._draft.dropped]
        own = {value for op in ops for value in op.outputs}
        if not dropped or any(self._draft.stands_for(op.outputs[0]) in own for op in dropped):
            return False
        module = _module(self._captured.model, path)
        if module is None:
            return False
        given = list(inspect.signature(module.forward).parameters.values())
        plain = (inspect.Parameter.POSITIONAL_ONLY, inspect.Parameter.POSITIONAL_OR_KEYWORD)
        return (
            bool(given)
            and given[0].kind in plain
            and all(
                p.default is not p.empty or p.kind in (p.VAR_POSITIONAL, p.VAR_KEYWORD)
                for p in given[1:]
            )
        )

    def roots(self, idle: Iterable[str]) -> set[str]:
        """Modules that need other code: those around what went and is in no idle module."""
        within = tuple(idle)
        roots: set[str] = set()
        readers = self._draft.readers()
        for name in self._draft.dropped:
            op = self._source[name]
            if not readers.get(self._draft.stands_for(op.outputs[0])):
                continue  # nothing calls for it any more
            swept = list(self._swept(op))
            if any(_lies_in(op, path) for path in within) and all(
                any(_lies_in(other, path) for path in within) for other in swept
            ):
                continue
            path = op.module
            for other in swept:
                path = _common(path, other.module)
            roots.add(path)
        return roots

    def _swept(self, op: Op) -> Iterator[Op]:
        """The operations that only a dropped one read."""
        makers = {value: other for other in self._source.values() for value in other.outputs}
        todo, seen = [op], {op}
        while todo:
            for value in todo.pop().inputs:
                other = makers.get(value) if value is not None else None
                if other is None or other in seen or other.name in self._alive:
                    continue
                if other.name not in self._draft.dropped:
                    seen.add(other)
                    todo.append(other)
                    yield other

    def branches(self, root: str) -> Branches:
        """What merging left of the branches in a module, by paths within it."""
        inside = self.ops_in(root)
        left = {path for op in inside if op.name in self._alive for path in _paths(op.module)}
        idle = self.idle()
        gone = {
            path
            for op in inside
            for path in _paths(op.module)
            if len(path) > len(root) and path not in left and idle.isdisjoint(_paths(path))
        }
        gone = {path for path in gone if gone.isdisjoint([*_paths(path)][1:])}
        merged = {
            self._source[step.op].module
            for rewrite in self._draft.made
            for step in rewrite.steps
            if rewrite.merges and isinstance(step, Weigh) and step.op in self._alive
        }
        layers = [path for path in merged if _below(path, root)]
        layer = around = layers[0] if len(layers) == 1 else ""
        for path in _paths(layer):
            if len(path) <= len(root) or any(
                op.name in self._alive and op.module != layer for op in self.ops_in(path)
            ):
                break
            around = path
        own = len(root) + bool(root)
        return Branches(sorted(path[own:] for path in gone), layer[own:], around[own:])

    def ops_in(self, path: str) -> list[Op]:
        """The operations that run in a module."""
        return [op for op in self._source.values() if _lies_in(op, path)]

    def is_used(self, path: str) -> bool:
        """Whether any operation is left in a module."""
        return any(op.name in self._alive for op in self.ops_in(path))


class _Copy:
    """A copy of the module, being changed."""

    def __init__(
        self, captured: CapturedModule, draft: Draft, cuts: Cuts, model: nn.Module
    ) -> None:
        self._captured, self._draft, self._cuts, self._model = captured, draft, cuts, model
        self._source = {op.name: op for op in draft.source.ops}
        self._alive = {op.name for op in draft.ops}
        self._gone = _Gone(captured, draft)
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
        module = _module(self._model, path)
        kinds: Sequence[Any] = () if module is None else (module._parameters, module._buffers)
        for held in kinds:
            if attr in held:
                held[attr] = tensor
        self._set.add(name)

    # --- modules ----------------------------------------------------------------------------

    def _replace(self, path: str) -> None:
        parent, _, name = path.rpartition(".")
        holder = _module(self._model, parent)
        old = _module(self._model, path)
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
                module = _module(self._model, path)
                if module is None:
                    continue
                if path and not self._gone.is_used(path) and self._gone.ops_in(path):
                    self._replace(path)
                elif attr in module._parameters and not isinstance(module, nn.ParameterList):
                    module._parameters[attr] = None


def _common(a: str, b: str) -> str:
    """The path of the innermost module that holds both."""
    both = []
    for one, other in zip(a.split("."), b.split("."), strict=False):
        if one != other:
            break
        both.append(one)
    return ".".join(both)


__all__ = ["refuses", "rewritten"]

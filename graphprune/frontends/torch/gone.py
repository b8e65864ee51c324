"""What went of a model: modules that hand on what they take, and those that need other code."""

from __future__ import annotations

import inspect
from collections.abc import Iterable, Iterator

from torch import nn

from graphprune.core.graph import Op
from graphprune.core.rewrites import Draft, Drop, Step, Weigh
from graphprune.frontends.torch.captured import CapturedModule
from graphprune.frontends.torch.shortened import Branches


def paths_of(path: str) -> Iterator[str]:
    """A module's path, and those of the modules that it lies in."""
    while path:
        yield path
        path = path.rpartition(".")[0]
    yield ""


def lies_in(op: Op, path: str) -> bool:
    """Whether an operation runs in a module."""
    return not path or op.module == path or is_below(op.module, path)


def is_below(path: str, root: str) -> bool:
    """Whether a module lies inside another."""
    return path.startswith(f"{root}.") if root else bool(path)


def module_at(model: nn.Module, path: str) -> nn.Module | None:
    """The module of a path, if there is one."""
    try:
        return model.get_submodule(path)
    except AttributeError:
        return None


class Gone:
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
                for outer in (outer for outer in paths_of(path) if outer and outer not in idle):
                    idle[outer] = self._is_idle(outer)
                if not any(idle.get(outer) for outer in paths_of(path)):
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
        module = module_at(self._captured.model, path)
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
            if any(lies_in(op, path) for path in within) and all(
                any(lies_in(other, path) for path in within) for other in swept
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
        left = {path for op in inside if op.name in self._alive for path in paths_of(op.module)}
        idle = self.idle()
        gone = {
            path
            for op in inside
            for path in paths_of(op.module)
            if len(path) > len(root) and path not in left and idle.isdisjoint(paths_of(path))
        }
        gone = {path for path in gone if gone.isdisjoint([*paths_of(path)][1:])}
        merged = {
            self._source[step.op].module
            for rewrite in self._draft.made
            for step in rewrite.steps
            if rewrite.merges and isinstance(step, Weigh) and step.op in self._alive
        }
        layers = [path for path in merged if is_below(path, root)]
        layer = around = layers[0] if len(layers) == 1 else ""
        for path in paths_of(layer):
            if len(path) <= len(root) or any(
                op.name in self._alive and op.module != layer for op in self.ops_in(path)
            ):
                break
            around = path
        own = len(root) + bool(root)
        return Branches(sorted(path[own:] for path in gone), layer[own:], around[own:])

    def ops_in(self, path: str) -> list[Op]:
        """The operations that run in a module."""
        return [op for op in self._source.values() if lies_in(op, path)]

    def is_used(self, path: str) -> bool:
        """Whether any operation is left in a module."""
        return any(op.name in self._alive for op in self.ops_in(path))


def _common(a: str, b: str) -> str:
    """The path of the innermost module that holds both."""
    both = []
    for one, other in zip(a.split("."), b.split("."), strict=False):
        if one != other:
            break
        both.append(one)
    return ".".join(both)

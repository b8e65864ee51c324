"""What lies inside a module: the calls that stay calls when its code is written anew."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence

import torch
from torch.utils import _pytree as pytree

from graphprune.core.graph import Graph, Op, Value
from graphprune.frontends.torch.findings import Call


class Inside:
    """The operations of a module, and the modules in it.

    Args:
        graph: The captured graph.
        path: The module's path; "" for the whole model.
        calls: Every call of a module, in terms of the graph's values.
        ops: The graph's operations that are left.
    """

    def __init__(
        self, graph: Graph, path: str, calls: Mapping[str, Sequence[Call]], ops: Sequence[Op]
    ) -> None:
        self._graph, self._path, self._calls, self._ops = graph, path, calls, ops

    def called(
        self, needed: Sequence[Op], wanted: Collection[Value], available: Collection[Value]
    ) -> dict[Op, str]:
        """The operations that lie in modules which can be called, and those modules' paths."""
        found: dict[Op, str] = {}
        users: dict[Value, list[Op]] = {}
        for op in needed:
            for value in op.inputs:
                if value is not None:
                    users.setdefault(value, []).append(op)
        refused: set[str] = set()
        inside: dict[str, list[Op]] = {}
        for op in needed:
            for path in _between(self._path, op.module):
                inside.setdefault(path, []).append(op)
        for path in sorted(inside, key=lambda p: p.count(".")):  # the outermost first
            ops = inside[path]
            if any(op in found for op in ops) or path in refused:
                continue
            if self._callable(path, set(ops), users, set(wanted), set(available)):
                found.update(dict.fromkeys(ops, path))
        return found

    def _inside(self) -> list[Op]:
        """The operations of all calls of the module, before rewrites."""
        return [
            op
            for op in self._graph.ops
            if not self._path or op.module == self._path or _between(self._path, op.module)
        ]

    def own(self, aside: set[str]) -> list[Op]:
        """The operations of one call of the module, but for those of some modules inside."""
        own = [op for op in self._inside() if aside.isdisjoint(_between(self._path, op.module))]
        return own[: len(own) // len(self._calls[self._path])]

    def gone(self) -> set[str]:
        """Modules inside of which rewrites leave no operation; what they do in training is gone."""
        left = {path for op in self._ops for path in _between(self._path, op.module)}
        return {path for op in self._inside() for path in _between(self._path, op.module)} - left

    def _callable(
        self,
        path: str,
        ops: set[Op],
        users: Mapping[Value, Sequence[Op]],
        wanted: Collection[Value],
        available: set[Value],
    ) -> bool:
        """Whether one call of a module does what some operations do, and nothing else is needed."""
        calls = self._calls.get(path, [])
        if not calls or len(calls) != len(self._calls[self._path]):
            return False
        args, result = calls[0].outer or (calls[0].args, calls[0].result)
        given = pytree.tree_leaves(args)
        if any(isinstance(x, torch.Tensor | float) for x in given):
            return False
        if any(type(x) is int and abs(x) > 1 for x in given):  # it may be a length
            return False
        made = {v for v in pytree.tree_leaves(result) if isinstance(v, Value)}
        taken = {v for v in given if isinstance(v, Value)}
        own = {value for op in ops for value in op.outputs}
        if taken & own or not made or not taken <= available:
            return False
        inputs = {v for op in ops for v in op.inputs if v is not None} - own
        prefix = f"{path}."
        for value in inputs - taken:
            names = (value.name, *value.aliases)
            if value.kind != "constant" and not any(n.startswith(prefix) for n in names):
                return False
        return not any(
            value in wanted or any(user not in ops for user in users.get(value, ()))
            for value in own - made
        )


def _between(path: str, module: str) -> list[str]:
    """The paths of the modules between one and what lies in it, the latter's own too."""
    prefix = f"{path}." if path else ""
    if not module.startswith(prefix) or module == path:
        return []
    steps = module[len(prefix) :].split(".")
    return [prefix + ".".join(steps[: i + 1]) for i in range(len(steps))]

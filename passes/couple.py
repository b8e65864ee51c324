"""couple: find which dimensions hold together.

1. Every weight starts with axes of its own; the inputs' axes are locked.
2. The rule of each operation, in execution order, unifies dimensions and makes the results'.
3. The outputs' axes are locked, and so are the weights that the caller wants kept.
4. Means that put their own operand right, as a norm written by hand has them, mix.
5. Rows of a table that nothing read are locked where those that were read are (`lock_unread`).
6. Every unlocked atom that a parameter holds becomes a coupled group.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping
from dataclasses import replace
from math import gcd, lcm

from graphprune.core.axes import Axis, atom, atoms, length, lock
from graphprune.core.effect import Dims, Effect
from graphprune.core.errors import AxisError, PassError
from graphprune.core.graph import Graph, Op, Value
from graphprune.core.groups import Dependencies, Group, Lock, Member, matches
from graphprune.core.spec import check_spec
from graphprune.pipeline import Outcome, Pass, Work
from graphprune.rules import infer, is_known
from graphprune.rules.facts import cuts_off, moves
from graphprune.rules.statistic import settle_means


def couple(
    graph: Graph, keep: Collection[str] = (), released: Collection[str] = ()
) -> Dependencies:
    """Analyse a graph.

    Args:
        graph: The lifted model.
        keep: Names of weights or modules to leave as they are; `*` and `?` match any text.
        released: Names of weights whose dimensions may shrink though the graph fixes them.

    Returns:
        Groups, locks and the dimensions of every value.

    Raises:
        AxisError: A pattern in `keep` matches no weight.
        LiftError: The graph is not what a frontend must lift to.
    """
    check_spec(graph)
    dims: dict[Value, Dims] = {}
    for value in graph.weights.values():
        dims[value] = [atom(size) for size in value.shape]
    for value in graph.inputs:
        dims[value] = [atom(size, f"model input {value.name}") for size in value.shape]
    effects: dict[Op, Effect] = {}
    unknown: dict[str, list[str]] = {}
    for op in graph.ops + graph.training:
        results, effects[op] = infer(op, dims)
        if not is_known(op.type):
            unknown.setdefault(op.type, []).append(op.name)
        for value, found in zip(op.outputs, results, strict=False):
            dims[value] = found
        dims.update({held.matrix: held.dims for held in effects[op].packed.values()})
    for value in graph.outputs:
        for dim in dims[value]:
            lock(dim, f"model output {value.name}")
    free = {
        axis
        for value, number in graph.fixed_dims
        if any(matches(value, pattern) for pattern in released)
        for axis in atoms(dims[value][number])
    }
    for (value, number), reason in graph.fixed_dims.items():
        if free.isdisjoint(atoms(dims[value][number])):
            lock(dims[value][number], reason)
    for value, reason in graph.fixed.items():
        for dim in dims[value]:
            lock(dim, reason)
    for pattern in keep:
        _keep(graph, dims, pattern)
    settle_means(graph, dims, effects)
    lock_unread(graph, dims, effects)
    deps = Dependencies(graph, dims, effects, infer, unknown=unknown)
    _collect(deps)
    return deps


def lock_unread(graph: Graph, dims: Mapping[Value, Dims], effects: Mapping[Op, Effect]) -> None:
    """Lock the rows of a table that nothing read: inputs of another size may read them.

    Code cuts a table of positions to the length of its input, `table[:length]`. The rows that it
    left would go for nothing, and be missing where an input is longer.

    Args:
        graph: The lifted model.
        dims: The dimensions of every value.
        effects: What every operation does with axes.
    """
    tables = graph.derived()
    read = _axes(graph.outputs, dims)
    left: set[Axis] = set()
    for op, effect in effects.items():
        taken, made = _axes(op.inputs, dims), _axes(op.outputs, dims)
        of_weights = not tables.keys().isdisjoint(op.outputs)
        if of_weights and cuts_off(op):
            left |= taken - made
        if moves(op):
            continue
        if of_weights:  # a table still, but for what it loses here
            taken -= made - {a for dim in (*effect.contracts, *effect.mixes) for a in atoms(dim)}
        read |= taken
    for axis in left - read:
        lock((axis,), "a table's rows beyond those read")


def _axes(values: Iterable[Value | None], dims: Mapping[Value, Dims]) -> set[Axis]:
    """The axes of values."""
    return {a for v in values if v is not None for dim in dims[v] for a in atoms(dim)}


def releases(graph: Graph, patterns: Collection[str]) -> bool:
    """Whether name patterns speak of nothing but weights of which the graph fixes dimensions."""
    fixed = {value for value, _ in graph.fixed_dims}
    found = {v for v in graph.weights.values() if any(matches(v, p) for p in patterns)}
    return bool(found) and found <= fixed


def _keep(graph: Graph, dims: dict[Value, Dims], pattern: str) -> None:
    found = [value for value in graph.weights.values() if matches(value, pattern)]
    if not found:
        raise AxisError(f"keep: {pattern!r} matches no weight of the model")
    for value in found:
        for dim in dims[value]:
            lock(dim, f"kept on request ({pattern})")


def _collect(deps: Dependencies) -> None:
    members: dict[Axis, list[Member]] = {}
    trainable: set[Axis] = set()
    for value in deps.source.weights.values():
        for number, dim in enumerate(deps.dims[value]):
            for axis in dict.fromkeys(atoms(dim)):
                members.setdefault(axis, []).append(Member(value, number))
                if value.kind == "parameter":
                    trainable.add(axis)
    grains = _grains(deps)
    for axis, held in members.items():
        if axis not in trainable:
            continue
        held.sort(key=lambda member: member.weight.kind != "parameter")
        if axis.reason is not None:
            deps.locks.append(Lock(axis.size, axis.reason, tuple(held)))
        elif axis.size > 1:
            grain = grains.get(axis, 1)
            deps.groups.append(Group(len(deps.groups), axis, tuple(held), grain))
    _tell_apart(deps)


def _tell_apart(deps: Dependencies) -> None:
    """Label groups that start with the same dimension: heads, and the width of each."""
    alike: dict[str, list[Group]] = {}
    for group in deps.groups:
        alike.setdefault(group.first, []).append(group)
    for held in alike.values():
        if len(held) > 1:
            for number, group in enumerate(held, 1):
                label = f"axis {number} of {len(held)}"
                deps.groups[group.id] = replace(group, label=label)


def _grains(deps: Dependencies) -> dict[Axis, int]:
    """What counts are multiples of, where a kernel asks for it."""
    grains: dict[Axis, int] = {}
    for dim, number in (grain for effect in deps.effects.values() for grain in effect.grains):
        for axis in atoms(dim):
            own = number // gcd(number, length(dim) // axis.size)
            grains[axis] = lcm(grains.get(axis, 1), own)
    return grains


def coupled(work: Work) -> Dependencies:
    """The analysis of the model as it is now: the same one as long as no pass changes the model.

    Args:
        work: The work.
    """
    graph = work.program.graph
    if work.analysed is None or work.analysed.source is not graph:
        work.analysed = couple(graph, work.asked.keep, work.asked.released)
    return work.analysed


class Couple(Pass):
    """Find the coupled groups.

    - Requires: a captured model.
    - Ensures: the dimensions of every value; one group for each axis that a parameter holds and
      nothing locks.
    """

    name = "couple"
    ensures = ("deps",)

    def run(self, work: Work) -> Outcome:
        """Run the rule of every operation."""
        work.deps = coupled(work)
        return self.unchanged(f"{len(work.deps.groups)} groups")

    def after(self, work: Work) -> None:
        """Every value that an operation makes has dimensions."""
        for op in work.program.graph.ops:
            for value in op.outputs:
                if len(work.deps.dims[value]) != len(value.shape):
                    raise PassError(f"{op.name}: {value} lacks dimensions")

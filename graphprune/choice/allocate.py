"""allocate: the order in which indices are removed, over all groups, and each group's bounds.

Every removable index gets a *level*; all indices whose level is at most one common number go.

1. `uniform`: its rank in its group, as a fraction.
2. `global`: its score, normalised so that groups compare.
3. `isomorphic`: its rank among all groups of the same topology (Fang et al., Isomorphic Pruning,
   ECCV 2024).
4. `loss`: its score, which is a loss curve already (`graphprune.compensation.curves`).
5. `erk`: levels at which the share that a group keeps is proportional to (Σ n) / (Π n) over the
   dimensions of its weights (Mocanu et al., 2018; Evci et al., RigL, 2020).
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from math import ceil, lcm, prod

import numpy as np

from graphprune.choice.request import ALLOCATIONS, Patterns, Request
from graphprune.core.axes import atoms
from graphprune.core.errors import GraphPruneError, OptionError
from graphprune.core.graph import Value
from graphprune.core.groups import Counts, Dependencies, Group, matches
from graphprune.importance import Scores
from graphprune.importance.reduce import normalized


def levels(
    deps: Dependencies, ordered: Sequence[Scores], allocation: str, normalize: str
) -> list[Scores]:
    """The level of every index.

    Args:
        deps: The analysis.
        ordered: The scores of each group, the lowest first.
        allocation: One of `ALLOCATIONS`; `"auto"` is uniform.
        normalize: How scores of different groups are made comparable, for `"global"` and
            `"isomorphic"`.

    Returns:
        For each group the levels of its indices in the order given, ascending.

    Raises:
        GraphPruneError: There is no such allocation or normalisation.
    """
    if allocation in ("auto", "uniform"):
        return [_ranks(len(found)) for found in ordered]
    if allocation == "loss":
        return list(ordered)
    if allocation == "global":
        return [_comparable(found, normalize) for found in ordered]
    if allocation == "isomorphic":
        return _isomorphic(deps, [_comparable(found, normalize) for found in ordered])
    if allocation == "erk":
        return [_density(group) / (1 - _ranks(group.size)) for group in deps.groups]
    raise GraphPruneError(f"no allocation {allocation!r}: choose from {', '.join(ALLOCATIONS)}")


def _ranks(size: int) -> Scores:
    return (np.arange(size) + 0.5) / size


def _comparable(ordered: Scores, normalize: str) -> Scores:
    if not ordered.any():
        return _ranks(len(ordered))
    return normalized(ordered, normalize)


def _isomorphic(deps: Dependencies, scores: Sequence[Scores]) -> list[Scores]:
    classes: dict[tuple[object, ...], list[int]] = {}
    for group, shape in zip(deps.groups, topologies(deps), strict=True):
        classes.setdefault(shape, []).append(group.id)
    out: list[Scores] = [np.empty(0)] * len(scores)
    for alike in classes.values():
        pool = np.sort(np.concatenate([scores[i] for i in alike]))
        for i in alike:
            out[i] = (np.searchsorted(pool, scores[i], side="right") - 0.5) / len(pool)
    return out


def topologies(deps: Dependencies) -> list[tuple[object, ...]]:
    """For each group the operations that hold its axis, with the operand and the dimension.

    Groups with equal answers are isomorphic: the same operations, whatever their widths.
    """
    ids = {group.axis: group.id for group in deps.groups}
    found: list[list[tuple[str, int, int]]] = [[] for _ in deps.groups]
    for op in deps.source.ops:
        for place, value in enumerate(op.inputs):
            for number, dim in enumerate(deps.dims[value] if value is not None else ()):
                for axis in dict.fromkeys(atoms(dim)):
                    if axis in ids:
                        found[ids[axis]].append((op.type, place, number))
    return [tuple(sorted(places)) for places in found]


def _density(group: Group) -> float:
    """(Σ n) / (Π n) of a group, averaged over its weights of two dimensions or more."""
    shapes = [m.weight.shape for m in group.members if len(m.weight.shape) > 1]
    return float(np.mean([sum(s) / prod(s) for s in shapes])) if shapes else 1.0


def bounds(deps: Dependencies, request: Request) -> tuple[Counts, Counts]:
    """The fewest and the most indices that each group may keep.

    `limits=` maps a pattern of names to the fewest, or to a pair of the fewest and the most.
    Whole numbers are counts, fractions are shares of the group's size; where two patterns match a
    group, the later one counts. Example: `{"layer4*": 0.5, "head": (8, 16)}`.

    Raises:
        GraphPruneError: A pattern matches no group, or its limits contradict each other.
    """
    least = np.ones(len(deps.groups))
    most = np.array([group.size for group in deps.groups], dtype=np.float64)
    for patterns, limit in request.limits.items():
        low, high = limit if isinstance(limit, tuple | list) else (limit, 1.0)
        for group in _matching(deps, patterns, "limits"):
            whole = _whole(group, request)
            least[group.id] = max(_count(low, group.size, whole), 1)
            most[group.id] = _count(high, group.size, whole)
            if most[group.id] < least[group.id]:
                raise GraphPruneError(
                    f"limits: {_text(patterns)} lets {group.name} keep at least "
                    f"{least[group.id]:g} and at most {most[group.id]:g}"
                )
    return least, most


def rounded(
    deps: Dependencies, step: int, fixed: Collection[int], least: Counts, most: Counts
) -> tuple[Counts, Counts]:
    """Bounds between which every count is a multiple of a step, or the group stays whole.

    Args:
        deps: The analysis.
        step: Every count is a multiple of it.
        fixed: Groups whose count the caller has fixed: they get the nearest multiple.
        least: The fewest indices that each group may keep.
        most: The most indices that each group may keep.

    Raises:
        OptionError: A group may keep neither a multiple nor all of its indices.
    """
    least, most = least.copy(), most.copy()
    for group in deps.groups:
        i, own = group.id, lcm(step, group.grain)
        whole = most[i] == group.size
        if i in fixed and not whole and own <= group.size:
            least[i] = most[i] = min(max(round(most[i] / own), 1) * own, group.size)
            whole = most[i] == group.size
        low, high = ceil(least[i] / own) * own, int(most[i] // own) * own
        if whole and low > high:
            low = group.size
        if (not whole and low > high) or low > group.size:
            asked = f"round_to={step}: " if step > 1 else ""
            raise OptionError(
                f"{asked}{group.name} has {group.size} indices and is to keep "
                f"{least[i]:g} to {most[i]:g} of them, but no multiple of {own} lies there: change "
                "round_to, ratios or limits"
            )
        least[i], most[i] = low, group.size if whole else high
    return least, most


def fixed(deps: Dependencies, request: Request, least: Counts, most: Counts) -> dict[int, float]:
    """For each group named in `ratios=`, by id, the number of indices that it keeps.

    Args:
        deps: The analysis.
        request: Of it, `ratios` and `limits` are used.
        least: The fewest indices that each group may keep, as `limits=` says.
        most: The most.

    Raises:
        OptionError: `ratios=` and `limits=` contradict each other.
        GraphPruneError: A pattern matches no group.
    """
    out: dict[int, float] = {}
    for patterns, fraction in request.ratios.items():
        for group in _matching(deps, patterns, "ratios"):
            share = min(max(_whole(group, request) * (1 - fraction), 1), group.size)
            low, high = least[group.id], most[group.id]
            count = min(max(round(share), low), high)
            if abs(count - share) >= 1:  # rounding moves it by less
                raise OptionError(
                    f"ratios: {_text(patterns)} is {fraction:g}, so that {group.name} keeps "
                    f"{round(share)} of its {group.size} indices, and limits lets it keep "
                    f"{low:g} to {high:g}: leave one of them out for this layer"
                )
            out[group.id] = float(count)
    return out


def _whole(group: Group, request: Request) -> int:
    """The size that shares of a group refer to."""
    return request.whole.get(group.name, group.size)


def _count(limit: float, size: int, whole: int) -> int:
    return min(int(limit) if isinstance(limit, int | np.integer) else round(limit * whole), size)


def _text(patterns: Patterns) -> str:
    return repr(patterns) if isinstance(patterns, str) else ", ".join(map(repr, patterns))


def _matching(deps: Dependencies, patterns: Patterns, option: str) -> list[Group]:
    """The groups of a pattern: those that matching layers produce or, if none, those they read."""
    read = _contracted(deps)
    wanted = (patterns,) if isinstance(patterns, str) else patterns
    made: dict[Group, None] = {}
    for pattern in wanted:
        found = [
            (group, (member.weight, member.dim) not in read)
            for group in deps.groups
            for member in group.members
            if matches(member.weight, pattern)
        ]
        own = dict.fromkeys(group for group, makes in found if makes)
        if own or len(wanted) == 1:
            made.update(own or dict.fromkeys(group for group, _ in found))
    if not made:
        raise GraphPruneError(f"{option}: {_text(patterns)} matches no layer that can be pruned")
    return list(made)


def _contracted(deps: Dependencies) -> set[tuple[Value, int]]:
    """The weight dimensions that vanish in a sum: channels that a layer reads.

    The layer may read what is computed from weights alone: integers that become numbers.
    """
    out = set()
    derived = deps.source.derived()
    for op in deps.source.ops:
        gone = {axis for dim in deps.effects[op].contracts for axis in atoms(dim)}
        read = [v for v in op.inputs if v is not None]
        for value in (w for v in read for w in ((v,) if v.is_weight else derived.get(v, ()))):
            dims = enumerate(deps.dims[value])
            out |= {(value, number) for number, dim in dims if gone.intersection(atoms(dim))}
    return out

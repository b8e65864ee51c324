"""allocate: in which order the indices of all groups go, and how far each group may.

Every removable index gets a *level*; all indices up to one common level go.

1. `uniform`: its rank in its group, as a fraction.
2. `global`: its score, normalised so that groups compare.
3. `isomorphic`: its rank among all groups of the same topology (Fang et al., Isomorphic Pruning,
   ECCV 2024).
4. `loss`: its score, which is a loss curve already (`weigh`).
5. `erk`: what makes a group's kept share proportional to (Σ n) / (Π n) over the dimensions of
   its weights (Mocanu et al., 2018; Evci et al., RigL, 2020).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from math import prod

import numpy as np

from graphprune.choice.request import Limits
from graphprune.core.axes import atoms
from graphprune.core.errors import GraphPruneError
from graphprune.core.graph import Value
from graphprune.core.groups import Dependencies, Group, matches
from graphprune.importance import Scores
from graphprune.importance.reduce import normalized

ALLOCATIONS = ("auto", "uniform", "global", "isomorphic", "erk")


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
    """For each group which operations hold its axis, and at which operand and dimension.

    Groups with the same answer are isomorphic: the same operations, whatever their widths.
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
    """What the kept share of a group is proportional to: the mean over its matrices and kernels."""
    shapes = [m.weight.shape for m in group.members if len(m.weight.shape) > 1]
    return float(np.mean([sum(s) / prod(s) for s in shapes])) if shapes else 1.0


def fixed(deps: Dependencies, ratios: Mapping[str, float]) -> dict[int, float]:
    """The groups whose fraction the caller has fixed, by id.

    Raises:
        GraphPruneError: A pattern matches no group, or a fraction is outside [0, 1).
    """
    out: dict[int, float] = {}
    for pattern, fraction in ratios.items():
        if not 0 <= fraction < 1:
            raise GraphPruneError(f"ratios: {pattern!r} is {fraction}, outside [0, 1)")
        out.update((group.id, fraction) for group in _matching(deps, pattern, "ratios"))
    return out


def bounds(deps: Dependencies, limits: Limits) -> tuple[Scores, Scores]:
    """The least and the most indices that each group may keep.

    Args:
        deps: The analysis.
        limits: By name pattern a least, or a least and a most: whole numbers count indices,
            others are fractions. Later patterns overrule earlier ones.

    Raises:
        GraphPruneError: A pattern matches no group, or its limits are none.
    """
    least = np.ones(len(deps.groups))
    most = np.array([group.size for group in deps.groups], dtype=np.float64)
    for pattern, limit in limits.items():
        low, high = limit if isinstance(limit, tuple | list) else (limit, 1.0)
        for group in _matching(deps, pattern, "limits"):
            least[group.id] = max(_count(low, group.size, pattern), 1)
            most[group.id] = _count(high, group.size, pattern)
            if most[group.id] < least[group.id]:
                raise GraphPruneError(
                    f"limits: {pattern!r} lets {group.name} keep at least {least[group.id]:g} and "
                    f"at most {most[group.id]:g}"
                )
    return least, most


def _count(limit: float, size: int, pattern: str) -> int:
    if isinstance(limit, bool) or not isinstance(limit, int | float) or not limit >= 0:
        raise GraphPruneError(f"limits: {pattern!r} is {limit!r}, no number of indices or fraction")
    if isinstance(limit, float) and limit > 1:
        raise GraphPruneError(f"limits: {pattern!r} is {limit}: a fraction is at most 1.0")
    return min(limit, size) if isinstance(limit, int) else round(limit * size)


def _matching(deps: Dependencies, pattern: str, option: str) -> list[Group]:
    """The groups of channels that layers make, or else read, whose names match a pattern."""
    read = _contracted(deps)
    found = [
        (group, (member.weight, member.dim) not in read)
        for group in deps.groups
        for member in group.members
        if matches(member.weight, pattern)
    ]
    if not found:
        raise GraphPruneError(f"{option}: {pattern!r} matches no layer that can be pruned")
    made = dict.fromkeys(group for group, makes in found if makes)
    return list(made or dict.fromkeys(group for group, _ in found))


def _contracted(deps: Dependencies) -> set[tuple[Value, int]]:
    """The weight dimensions that vanish in a sum: channels that a layer reads."""
    out = set()
    for op in deps.source.ops:
        gone = {axis for dim in deps.effects[op].contracts for axis in atoms(dim)}
        for value in op.inputs:
            if value is not None and value.is_weight:
                dims = enumerate(deps.dims[value])
                out |= {(value, number) for number, dim in dims if gone.intersection(atoms(dim))}
    return out

"""tie: lengths that a model's code is likely to equate, as a preference in the choice of counts.

Python code often takes one length for another that was equal when the model was built:
`x.reshape(B, N, C)` where the inner width is heads x head_dim, `C // num_heads` for head_dim.
Coupling them would be wrong: their indices have nothing to do with each other. Keeping their
*counts* equal costs little, keeps head_dim (and with it the fast attention kernels and the
softmax scale) and lets the caller's code express the result.

1. Where removable axes are multiplied (heads x head_dim, groups x channels), only the outermost
   loses indices.
2. Where a weight maps a width onto a product of the same length, the width becomes a multiple of
   the product's inner length and the outer count follows.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from math import lcm

from graphprune.axes import Axis, Dim, leaves, length
from graphprune.dependencies import Dependencies


@dataclass
class Ties:
    """Preferences between the counts of groups, by group id.

    Attributes:
        frozen: Groups that keep all their indices.
        steps: For widths: what their counts are multiples of.
        followers: For widths: the groups that follow, with their inner lengths.
    """

    frozen: set[int] = field(default_factory=set)
    steps: dict[int, int] = field(default_factory=dict)
    followers: dict[int, dict[int, int]] = field(default_factory=dict)

    def leader(self, group: int) -> int:
        """The group that a group follows, or itself."""
        for width, held in self.followers.items():
            if group in held:
                return width
        return group

    def add(self, follower: int, inner: int, width: int) -> bool:
        """Let a group follow a width: `inner` times its count is the width's.

        Returns:
            Whether that was possible and new.
        """
        if self.leader(follower) != follower or width == follower or width in self.frozen:
            return False
        own = self.followers.pop(follower, {})
        if own and inner != 1:
            self.followers[follower] = own
            return False
        held = self.followers.setdefault(width, {})
        held.update({follower: inner, **own})
        self.frozen.discard(follower)
        step = lcm(self.steps.get(width, 1), inner, self.steps.pop(follower, 1))
        self.steps[width] = step
        return True


def tie(deps: Dependencies) -> Ties:
    """Find the ties of a model."""
    ids = {group.axis: group.id for group in deps.groups}
    ties = Ties()
    products: dict[tuple[Axis, ...], None] = {}
    for value in deps.source.parameters():
        for dim in deps.dims[value]:
            factors = tuple(leaves(dim))
            if len(factors) > 1 and all(axis.parts is None for axis in factors):
                products[factors] = None
                inner = [axis for axis in factors if axis in ids][1:]
                ties.frozen.update(ids[axis] for axis in inner)
    for value in deps.source.parameters():
        dims = deps.dims[value]
        for width, product in ((a, b) for a in dims for b in dims if a is not b):
            _follow(ties, ids, width, product)
    for leader in [w for w, step in ties.steps.items() if step * 2 > deps.groups[w].size]:
        del ties.steps[leader], ties.followers[leader]
    return ties


def _follow(ties: Ties, ids: dict[Axis, int], width: Dim, product: Dim) -> None:
    one, several = leaves(width), leaves(product)
    if len(one) != 1 or len(several) < 2 or length(width) != length(product):
        return
    free = [ids[axis] for axis in several if axis in ids and ids[axis] not in ties.frozen]
    if one[0] not in ids or len(free) != 1 or any(axis.parts for axis in several):
        return
    (follower,) = (axis for axis in several if ids.get(axis) == free[0])
    ties.add(free[0], length(product) // follower.size, ids[one[0]])


def learn(ties: Ties, deps: Dependencies, counts: Mapping[Axis, int], dim: Dim, given: int) -> bool:
    """Learn a tie from a length that the model's code took for another.

    Args:
        ties: What is tied so far; extended.
        deps: The analysis.
        counts: How many indices each axis keeps.
        dim: The dimension whose length the code should have used.
        given: The length that it used instead.

    Returns:
        Whether there is a new tie.
    """
    by_axis = {group.axis: group for group in deps.groups}
    free = [by_axis[axis] for axis in leaves(dim) if axis in by_axis]
    free = [group for group in free if group.id not in ties.frozen or len(free) == 1]
    if len(free) != 1:
        return False
    (group,) = free
    inner = length(dim) // group.size
    alike = [
        other
        for other in deps.groups
        if other is not group
        and other.size == length(dim)
        and counts.get(other.axis, other.size) == given
    ]
    held = {member.weight for member in group.members}
    alike.sort(key=lambda other: not any(m.weight in held for m in other.members))
    return any(ties.add(group.id, inner, ties.leader(other.id)) for other in alike[:1])

"""dead: every index whose removal changes nothing goes."""

from __future__ import annotations

from collections import Counter
from typing import TypeAlias

import numpy as np

from graphprune.choice.select import Selection
from graphprune.core.axes import Axis
from graphprune.core.edits import cut_by
from graphprune.core.errors import PassError
from graphprune.core.groups import Group
from graphprune.core.indices import Indices
from graphprune.core.keep import Keep
from graphprune.costs.registry import cost_of
from graphprune.importance.free import rounds
from graphprune.importance.freedom import Free, Mask
from graphprune.pipeline import Outcome, Pass, Work

Kinds: TypeAlias = "dict[Axis, dict[str, Mask]]"

_LAST = "all of its indices could go: one stays, as a layer has a width"
_GRAIN = "its kernel asks for multiples of {}"


class Dead(Pass):
    """Choose what costs nothing: every index whose removal changes no result.

    - Requires: coupled groups.
    - Ensures: one edit for each group; the indices that go are free, each for a reason that is
      counted; those that are free and stay are named with the reason.
    """

    name = "dead"
    requires = ("deps",)
    ensures = ("choice",)

    def run(self, work: Work) -> Outcome:
        """Remove all that is free."""
        deps = work.deps
        found, partly = _found(work.freedom(deps))
        keep: dict[Axis, Indices] = {}
        for group in deps.groups:
            masks = found.get(group.axis)
            for why, mask in partly.get(group.axis, {}).items():
                told = f"{int(mask.sum())} of its indices, masked or constant in places, {why}"
                work.left[group.name] = "; ".join(
                    filter(None, (work.left.get(group.name, ""), told))
                )
            if masks is None:
                continue
            free = np.logical_or.reduce(list(masks.values()))
            stays, why = _stays(group, free)
            if why:
                work.left[group.name] = why
            if len(stays) < group.size:
                keep[group.axis] = stays
                gone = np.ones(group.size, dtype=bool)
                gone[stays] = False
                counts = Counter({kind: int((mask & gone).sum()) for kind, mask in masks.items()})
                work.reasons[group.name] = {kind: n for kind, n in counts.items() if n}
        work.edits = [Keep.of(group, keep.get(group.axis)) for group in deps.groups]
        params = cost_of(deps, "params")
        whole, rest = params(deps.sizes()), params(deps.counts(keep))
        share = 1 - rest / whole if whole else 0.0
        work.choice = work.chooser.take(Selection(keep, share, share, 1, "params"))
        number = sum(sum(found.values()) for found in work.reasons.values())
        note = f"{number} indices of {len(keep)} groups go"
        return self.done(note) if keep else self.unchanged("nothing is free")

    def after(self, work: Work) -> None:
        """The edits say what was chosen."""
        if cut_by(work.edits, work.deps).keys() != work.selection.keep.keys():
            raise PassError("the edits are not the choice")


def _found(first: Free) -> tuple[Kinds, Kinds]:
    """The free indices by the reason, and those that are one number in places and not free."""
    found: Kinds = {}
    for number, step in enumerate(rounds(first)):
        before = {axis: np.logical_or.reduce([*kinds.values()]) for axis, kinds in found.items()}
        for axis, kinds in step.reasons().items():
            held = found.setdefault(axis, {kind: np.zeros(axis.size, dtype=bool) for kind in kinds})
            for kind, mask in kinds.items():
                more = mask & ~before.get(axis, np.zeros(axis.size, dtype=bool))
                # what fed free indices alone is read by no one, whatever it is
                held["unread" if number else kind] |= more
    return found, step.partly()


def _stays(group: Group, free: Mask) -> tuple[Indices, str]:
    """The indices that stay, and why free ones are among them."""
    live = np.flatnonzero(~free)
    wanted = max(len(live), 1)
    wanted = min(-(-wanted // group.grain) * group.grain, group.size)
    if wanted == len(live):
        return live, ""
    more = np.flatnonzero(free)[: wanted - len(live)]
    why = _LAST if not len(live) else _GRAIN.format(group.grain)
    return np.sort(np.concatenate([live, more])), why

"""Systems of equations: what a coupled group's readers compute from it."""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt

from graphprune.compensation.obs import (
    Elimination,
    Matrix,
    damped_inverse,
    eliminate,
    eliminate_blocks,
)

_SYSTEMS, _WORK = 8, 1 << 31  # more layers than this, or of more cubed widths, share covariances

Blocks = npt.NDArray[np.float64]  # n x size x n x size


@dataclass
class _System:
    """Layers whose inputs have one covariance, and how many covariances were averaged for it."""

    key: object
    covariance: Blocks
    weight: Blocks
    merged: int = 1


@dataclass
class Systems:
    """The layers that read a group: covariance and weights' Gram of each, by owned inputs.

    Attributes:
        size: Of the group.
        held: The layers.
        scarcity: The largest of what rows are short of, for any layer (`Moments.scarcity`).
    """

    size: int
    held: list[_System] = field(default_factory=list)
    scarcity: float = 0.0

    def add(
        self,
        key: object,
        covariance: Matrix,
        weight: Matrix,
        positions: npt.NDArray[np.int64],
        whole: float | None,
    ) -> None:
        """Add a layer; of the same key are those that read the same value.

        `whole` is what its error counts as a share of what it computes; None where the weights
        say by themselves what their errors count.
        """
        each = positions.size // self.size
        shape = [self.size, each, self.size, each]
        flat = positions.ravel()
        if not np.array_equal(flat, np.arange(len(covariance))):
            grid = np.ix_(flat, flat)
            covariance, weight = covariance[grid], weight[grid]
        total = float(np.vdot(weight, covariance))
        if not 0 < total < np.inf:
            return
        c, a = covariance.reshape(shape), weight.reshape(shape)
        a = a if whole is None else a * (whole / total)
        alike = [system for system in self.held if system.covariance.shape[1] == each]
        same = next((system for system in alike if system.key == key), None)
        if same is not None:
            same.weight += a
        elif alike and len(self.held) >= min(_SYSTEMS, _WORK // positions.size**3):
            nearest = alike[len(alike) // 2]
            nearest.merged += 1
            nearest.covariance = nearest.covariance + (c - nearest.covariance) / nearest.merged
            nearest.weight += a
        else:
            self.held.append(_System(key, c, a))

    def eliminated(self) -> Elimination | None:
        """In which order indices go, and what each costs; None where no layer was added.

        What has been added is used up.
        """
        if not self.held:
            return None
        pairs: list[tuple[Blocks, Blocks]] = []
        while self.held:
            system = self.held.pop(0)
            c, width = system.covariance, round(system.covariance.size**0.5)
            inverse = damped_inverse(c.reshape(width, width)).reshape(c.shape)
            pairs.append((inverse, system.weight))
        if any(h.shape[1] > 1 for h, _ in pairs):
            return eliminate_blocks(pairs, self.size)
        shape = (len(pairs), self.size, self.size)
        inverse, weight = (
            (parts[0][None] if len(pairs) == 1 else np.stack(parts)).reshape(shape)
            for parts in zip(*pairs, strict=True)
        )
        return eliminate(inverse, weight, self.size)

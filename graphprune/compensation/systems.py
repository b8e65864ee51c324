"""Systems: the layers that read one coupled group, each as a covariance C and a Gram matrix WᵀW."""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt

from graphprune.compensation.constants import DAMPING, SYSTEMS, SYSTEMS_WORK
from graphprune.compensation.obs import (
    Elimination,
    Matrix,
    damped_inverse,
    eliminate,
    eliminate_blocks,
)

Blocks = npt.NDArray[np.float64]
"""`n x size x n x size`: a matrix over n indices that own `size` channels each."""


@dataclass
class _System:
    """Layers with one covariance of their inputs.

    Attributes:
        key: What the layers read; equal keys have equal covariances.
        covariance: C.
        weight: The sum of the layers' WᵀW.
        merged: Number of covariances that C is the mean of.
    """

    key: object
    covariance: Blocks
    weight: Blocks
    merged: int = 1


@dataclass
class Systems:
    """The layers that read a coupled group.

    Attributes:
        size: Number of indices of the group.
        held: The layers. More than `SYSTEMS`, or fewer where they are wide, share covariances.
        scarcity: The largest scarcity of rows of any layer (`Moments.scarcity`).
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
        """Add a layer.

        Args:
            key: What it reads: layers of equal keys share a covariance.
            covariance: C of the channels it reads, `channels x channels`.
            weight: WᵀW of these channels.
            positions: The channels that each index of the group owns, `size x each`.
            whole: How much the results suffer from a relative error of the layer's outputs
                (`Sensitivity.whole`): WᵀW is scaled so that tr(WᵀW C), the error of losing
                everything, equals it. None where WᵀW is in units of the results' error already.
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
        elif alike and len(self.held) >= min(SYSTEMS, SYSTEMS_WORK // positions.size**3):
            nearest = alike[len(alike) // 2]
            nearest.merged += 1
            nearest.covariance = nearest.covariance + (c - nearest.covariance) / nearest.merged
            nearest.weight += a
        else:
            self.held.append(_System(key, c, a))

    def eliminated(self) -> Elimination | None:
        """The order in which indices go, and what each costs, over all layers together.

        The layers are dropped on the way, to free their memory.

        Returns:
            None where no layer was added.
        """
        if not self.held:
            return None
        pairs: list[tuple[Blocks, Blocks]] = []
        while self.held:
            system = self.held.pop(0)
            c, width = system.covariance, round(system.covariance.size**0.5)
            inverse = damped_inverse(c.reshape(width, width), DAMPING).reshape(c.shape)
            pairs.append((inverse, system.weight))
        if any(h.shape[1] > 1 for h, _ in pairs):
            return eliminate_blocks(pairs, self.size)
        shape = (len(pairs), self.size, self.size)
        inverse, weight = (
            (parts[0][None] if len(pairs) == 1 else np.stack(parts)).reshape(shape)
            for parts in zip(*pairs, strict=True)
        )
        return eliminate(inverse, weight, self.size)

"""Edits inside one weight: numbers become zero, or two layers stand for one."""

from __future__ import annotations

import base64
import binascii
import zlib
from collections.abc import Mapping
from dataclasses import dataclass
from math import prod
from typing import Any, ClassVar

import numpy as np

from graphprune.core.axes import Axis
from graphprune.core.errors import PlanError
from graphprune.core.graph import Value
from graphprune.core.groups import Counts, Dependencies
from graphprune.core.indices import Flags, Indices


class _Within:
    """What edits inside a weight share: all its indices stay."""

    def cut(self, deps: Dependencies) -> Mapping[Axis, Indices]:
        """No index goes."""
        return {}

    def count(self, deps: Dependencies, counts: Counts) -> None:
        """All indices stay."""


def _weight(deps: Dependencies, name: str, shape: tuple[int, ...], does: str) -> Value:
    """A weight that an edit names.

    Raises:
        PlanError: The model has no such weight, or one of another shape.
    """
    found = deps.source.weights.get(name)
    if found is None or found.shape != shape:
        present = "no such weight" if found is None else f"one of shape {found.shape}"
        raise PlanError(
            f"the plan was made for another model: it {does} {name} of shape {shape}, this model "
            f"has {present}"
        )
    return found


@dataclass
class Mask(_Within):
    """Set some numbers of a weight to zero and keep the others.

    - How it cuts: not at all; the weight keeps its shape.
    - What it costs: nothing is saved but where zeros are stored or computed sparsely.
    - How it is proven: the zeros are counted in the result.

    Attributes:
        weight: The weight's name.
        kept: Which of its numbers stay, in its shape.
        pattern: How the zeros lie: `"unstructured"`, `"2:4"`, `"block:4x4"`.
    """

    weight: str
    kept: Flags
    pattern: str = "unstructured"

    kind: ClassVar[str] = "mask"
    proof: ClassVar[str] = "the zeros are counted in the result"

    def find(self, deps: Dependencies) -> Value:
        """The weight in a model's analysis.

        Raises:
            PlanError: The model has no such weight, or one of another shape.
        """
        return _weight(deps, self.weight, self.kept.shape, "sets zeros in")

    def check(self, deps: Dependencies) -> None:
        """Refuse a mask of a weight that the model does not have.

        Raises:
            PlanError: There is none of this name and shape.
        """
        self.find(deps)

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> Mask:
        """The edit from plain data.

        Raises:
            PlanError: Something is missing or wrong.
        """
        try:
            name, shape = str(data["weight"]), tuple(int(size) for size in data["shape"])
            packed = zlib.decompress(base64.b64decode(data["kept"], validate=True))
        except (KeyError, TypeError, ValueError, binascii.Error, zlib.error) as error:
            raise PlanError(f"a mask lacks its weight, shape or kept numbers: {error!r}") from error
        bits = np.frombuffer(packed, np.uint8)
        if len(bits) != -(-prod(shape) // 8):
            raise PlanError(f"{name}: the mask does not hold {prod(shape)} flags")
        kept = np.unpackbits(bits, count=prod(shape)).astype(bool).reshape(shape)
        return cls(name, kept, str(data.get("pattern", "unstructured")))

    def as_dict(self) -> dict[str, Any]:
        """The edit as plain data: one bit for each number, packed."""
        packed = base64.b64encode(zlib.compress(np.packbits(self.kept).tobytes())).decode()
        return {
            "kind": self.kind, "weight": self.weight, "shape": list(self.kept.shape),
            "pattern": self.pattern, "kept": packed,
        }  # fmt: skip


@dataclass
class Rank(_Within):
    """Two layers in a row in place of one, with few channels between them.

    - How it cuts: no index goes; the weight becomes the product of two.
    - What it costs: the two weights in place of the one.
    - How it is proven: the two layers compute what the one does with their product as its weight.

    Attributes:
        weight: The weight's name.
        shape: Its shape.
        rank: Channels between the two layers; in each group, of a grouped convolution.
    """

    weight: str
    shape: tuple[int, ...]
    rank: int

    kind: ClassVar[str] = "rank"
    proof: ClassVar[str] = "two layers equal the one with their product as its weight"

    def find(self, deps: Dependencies) -> Value:
        """The weight in a model's analysis.

        Raises:
            PlanError: The model has no such weight, or one of another shape.
        """
        return _weight(deps, self.weight, self.shape, "factors")

    def check(self, deps: Dependencies) -> None:
        """Refuse a rank that the weight cannot have.

        Raises:
            PlanError: There is no such weight, or the rank is no whole number from 1 up to what
                the weight's dimensions allow.
        """
        self.find(deps)
        if len(self.shape) < 2:
            raise PlanError(f"{self.weight} is a row of numbers, which has no rank")
        first, second, *taps = self.shape
        most = max(min(first, second * prod(taps)), min(second, first * prod(taps)))
        if isinstance(self.rank, bool) or not isinstance(self.rank, int | np.integer):
            raise PlanError(f"{self.weight}: a rank is a whole number, not {self.rank!r}")
        if not 1 <= self.rank <= most:
            raise PlanError(f"{self.weight}: ranks run from 1 to {most}, not {self.rank}")

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> Rank:
        """The edit from plain data.

        Raises:
            PlanError: Something is missing or wrong.
        """
        try:
            shape = tuple(int(size) for size in data["shape"])
            return cls(str(data["weight"]), shape, int(data["rank"]))
        except (KeyError, TypeError, ValueError) as error:
            raise PlanError(f"a rank lacks its weight, shape or number: {error!r}") from error

    def as_dict(self) -> dict[str, Any]:
        """The edit as plain data."""
        return {
            "kind": self.kind, "weight": self.weight, "shape": list(self.shape),
            "rank": int(self.rank),
        }  # fmt: skip

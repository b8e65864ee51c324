"""One operation, run on narrowed operands and held against what its rule says."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from graphprune.core.axes import Axis, atoms, length
from graphprune.core.cuts import Cuts, narrow
from graphprune.core.effect import Dims, Effect
from graphprune.core.errors import VerifyError
from graphprune.core.graph import Evaluator, Graph, Op, Value
from graphprune.core.groups import Dependencies
from graphprune.core.indices import Indices, kept_indices
from graphprune.engine.tensors import cut_tensor, difference
from graphprune.rules import facts
from graphprune.rules.facts import is_blank, is_random
from graphprune.rules.registry import infer
from graphprune.rules.site import said, shapes

Keep = Mapping[Axis, Indices]
Tensors = list["torch.Tensor | None"]


def copies(tensors: Tensors) -> Tensors:
    """Operands with memory of their own."""
    return [None if tensor is None else tensor.clone() for tensor in tensors]


def some(size: int, rng: np.random.Generator) -> Indices:
    """A random choice of indices: at least one, and not all."""
    kept = rng.choice(size, int(rng.integers(1, size)), replace=False)
    return np.sort(kept).astype(np.int64)


@dataclass
class Trial:
    """One operation, ready to be run on narrowed operands."""

    op: Op
    effect: Effect
    dims: Mapping[Value, Dims]
    operands: Tensors
    engine: Evaluator

    def __post_init__(self) -> None:
        self.mixed = {axis for dim in self.effect.mixes for axis in atoms(dim)}
        self.contracted = {axis for dim in self.effect.contracts for axis in atoms(dim)}
        self.random = is_blank(self.op) or self._varies()
        self._deps = Dependencies(
            Graph([self.op], [], [], {}, self.engine), self.dims, {self.op: self.effect}, infer
        )

    def _varies(self) -> bool:
        """Whether results differ from run to run; attention without dropout only might."""
        if not self.engine.random(self.op) and not is_random(self.op):
            return False
        if self.op.attrs.get("seed") is not None:  # the same numbers again, others once narrowed
            return True
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(0)
            first, *others = (self.run(self.operands) for _ in range(5))
        return any(
            difference(a, b) > 0 for other in others for a, b in zip(first, other, strict=True)
        )

    def free(self) -> list[Axis]:
        """The axes that the operation touches and that may lose indices."""
        values = [*(value for value in self.op.inputs if value is not None), *self.op.outputs]
        found = dict.fromkeys(axis for v in values for dim in self.dims[v] for axis in atoms(dim))
        return [axis for axis in found if axis.reason is None and axis.size > 1]

    def check(self, keep: Keep) -> None:
        """Compare the narrowed operation with the original one.

        Raises:
            VerifyError: They differ, or the narrowed one does not run.
        """
        cuts = narrow(self._deps, keep)
        try:
            found = self.narrowed(cuts, self.operands)
        except (RuntimeError, IndexError, ValueError, TypeError) as error:
            raise self._wrong(keep, f"it does not run: {error}") from error
        zeroed = self.zeroed(keep, [axis for axis in keep if axis in self.contracted])
        for number, (full, cut) in enumerate(zip(self.run(zeroed), found, strict=True)):
            expected = cut_tensor(full, cuts.kept(self.op.outputs[number]))
            if expected.shape != cut.shape:
                have = f"result {number} has the shape {list(cut.shape)}"
                raise self._wrong(keep, f"{have}, not {list(expected.shape)}")
            if self.mixed & keep.keys() or self.random:
                continue
            gap = difference(expected, cut)
            if gap > self.engine.tolerance:
                raise self._wrong(keep, f"result {number} differs by {gap:.3g}", gap)

    def _wrong(self, keep: Keep, cause: str, gap: float = float("inf")) -> VerifyError:
        """The error that says that removal contradicts the rule."""
        what = f"is wrong on the shapes {shapes(self.op)}: without some of {self.place(keep)}"
        rule = facts.found(self.op).text
        return VerifyError(said(self.op, rule, f"{what}, {cause}"), self.op.name, gap)

    def commutes(self, axes: Sequence[Axis], rng: np.random.Generator) -> bool:
        """Whether removal along axes that the rule holds back would have been exact."""
        size = axes[0].size
        readings: set[int | None] = {None, *range(max(len(v.shape) for v in self.op.outputs))}
        for sign in (0, -1, 1):
            operands = [_renewed(tensor, sign, rng) for tensor in self.operands]
            singles = [np.delete(np.arange(size), i) for i in range(size)]
            for kept in [*singles, *(some(size, rng) for _ in range(4))]:
                readings = self._readings(readings, dict.fromkeys(axes, kept), operands)
                if not readings:
                    return False
        return True

    def _readings(
        self, readings: Iterable[int | None], keep: Keep, operands: Tensors
    ) -> set[int | None]:
        """Which result dimensions, cut after zeroing, give the narrowed results (None: as is)."""
        kept = next(iter(keep.values()))
        size = next(iter(keep)).size
        try:
            found = self.narrowed(narrow(self._deps, keep), operands)
        except (RuntimeError, IndexError, ValueError, TypeError):
            return set()
        masked = self.run(self.zeroed(keep, list(keep), operands))
        out = set()
        for dim in readings:
            cut = masked
            if dim is not None:
                if any(x.dim() <= dim or x.shape[dim] != size for x in masked):
                    continue
                cut = [cut_tensor(x, [None] * dim + [kept]) for x in masked]
            if all(
                difference(a, b) <= self.engine.tolerance for a, b in zip(cut, found, strict=True)
            ):
                out.add(dim)
        return out

    def narrowed(self, cuts: Cuts, operands: Tensors) -> list[torch.Tensor]:
        """The results of the narrowed operation."""
        small = [
            None if value is None or tensor is None else cut_tensor(tensor, cuts.kept(value))
            for value, tensor in zip(self.op.inputs, operands, strict=True)
        ]
        return self.run(small, cuts.attrs.get(self.op, {}))

    def zeroed(self, keep: Keep, axes: Sequence[Axis], operands: Tensors | None = None) -> Tensors:
        """The operands without what the removed indices of some axes hold."""
        gone = {axis: keep[axis] for axis in axes}
        out: Tensors = []
        for value, tensor in zip(self.op.inputs, operands or self.operands, strict=True):
            for number, dim in enumerate([] if value is None else self.dims[value]):
                kept = kept_indices(dim, gone)
                if kept is not None and tensor is not None:
                    rest = np.setdiff1d(np.arange(length(dim)), kept)
                    tensor = tensor.index_fill(number, torch.as_tensor(rest), 0)
            out.append(tensor)
        return out

    def run(
        self, operands: Tensors, changed: Mapping[str, Any] | None = None
    ) -> list[torch.Tensor]:
        """The results of the operation, which may write to none of its operands."""
        run = self.engine.evaluate
        with torch.no_grad():
            return run(self.op, copies(operands), changed or {}, self.engine.dtype)

    def place(self, axes: Iterable[Axis]) -> str:
        """Where axes occur among the operands and results."""
        wanted = set(axes)
        values = [(f"operand {i}", value) for i, value in enumerate(self.op.inputs)]
        values += [(f"result {i}", value) for i, value in enumerate(self.op.outputs)]
        return ", ".join(
            f"{name} {list(value.shape)} dim {number}"
            for name, value in values
            if value is not None
            for number, dim in enumerate(self.dims[value])
            if wanted & set(atoms(dim))
        )


def _renewed(
    tensor: torch.Tensor | None, sign: int, rng: np.random.Generator
) -> torch.Tensor | None:
    """Other random numbers, of one sign unless it is 0; integers stay."""
    if tensor is None or not tensor.is_floating_point():
        return tensor
    fresh = torch.as_tensor(rng.standard_normal(tensor.shape), dtype=tensor.dtype)
    return sign * (fresh.abs() + 0.1) if sign else fresh

"""known: slices of values that are one number for every input.

1. Weights are followed forwards: a channel whose weights are zero is its bias, one that a batch
   norm multiplies by 0 is the shift, and behind an activation f it is f of that.
2. So is what operations make of nothing, such as the states a recurrent layer begins with.
3. What an operation makes of such slices is asked of the operation itself, not of a table: it runs
   by itself on numbers drawn at random, with the known ones in their places, and what is the same
   number for all of them is known. Linear operations with stored weights need not be run: an output
   all of whose live channels have zero weights is `b + W x` of the known ones; and rows that are
   taken from a table have its zeros.

Nothing here looks at samples: a channel that merely seems dead on a few inputs is not known.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TypeAlias

import numpy as np
import numpy.typing as npt
import torch

from graphprune.core.axes import Axis, atoms
from graphprune.core.graph import Op, Value
from graphprune.core.groups import Dependencies
from graphprune.core.indices import holdings
from graphprune.engine.linear import border
from graphprune.engine.run import Run
from graphprune.importance.drawn import DRAWS, draw, equal, shapes
from graphprune.importance.stored import Stored, zeros
from graphprune.rules.facts import is_blank, is_random, looked_up
from graphprune.rules.readings import Reading, folded, reading
from graphprune.rules.scalings import gain, is_norm
from graphprune.statistics.bounds import Bounds

Mask: TypeAlias = npt.NDArray[np.bool_]


@dataclass(frozen=True)
class Slices:
    """Positions of a dimension that hold one number each, whatever the other dimensions' are.

    Attributes:
        mask: Which positions.
        numbers: The number of each; anything elsewhere.
    """

    mask: torch.Tensor
    numbers: torch.Tensor


class Known:
    """What is known of every value of a graph before it runs, along dimensions of groups' axes.

    Attributes:
        dtype: The precision in which operations are asked.
        made: Values that are computed of nothing, weights neither.

    Args:
        deps: The analysis.
        wanted: The axes whose slices are looked for.
        bounds: Between which numbers channels of values are taken to lie, if that is assumed.
        gone: Indices of axes all of whose slices are taken for zeros.
    """

    def __init__(
        self,
        deps: Dependencies,
        wanted: Collection[Axis],
        bounds: Mapping[Value, Bounds] | None = None,
        gone: Mapping[Axis, Mask] | None = None,
    ) -> None:
        self._deps = deps
        self._wanted = set(wanted)
        self._bounds = bounds or {}
        self._gone = gone or {}
        self._held: dict[Value, dict[int, Slices]] = {}
        self.made: set[Value] = set()
        self._stored = Stored(deps)
        tensors = (value.tensor for value in deps.source.weights.values())
        self._device = next((t.device for t in tensors if t is not None), torch.device("cpu"))
        self.dtype: torch.dtype = deps.source.engine.dtype
        for value in deps.source.weights.values():
            self._weigh(value)
        self._training = set(deps.source.training)
        for op in (*deps.source.ops, *deps.source.training):
            self._follow(op)

    def axes(self) -> set[Axis]:
        """The axes along which anything is known."""
        return {axis for value, at in self.held() for axis in atoms(self._deps.dims[value][at])}

    def held(self) -> Iterator[tuple[Value, int]]:
        """Every value of which something is known, and along which dimension."""
        for value, found in self._held.items():
            for number in found:
                yield value, number

    def slices(self, value: Value, number: int) -> Slices | None:
        """What is known of a value along one of its dimensions."""
        return self._held.get(value, {}).get(number)

    def where(self, value: Value, number: int, axis: Axis, zero: bool) -> Mask:
        """Which indices of an axis own nothing but known slices of a dimension: zeros, or any."""
        found = self.slices(value, number)
        if found is None:
            return np.zeros(axis.size, dtype=bool)
        mask = found.mask & (found.numbers == 0) if zero else found.mask
        live = ~mask.cpu().numpy()
        out, lies = np.ones(axis.size, dtype=bool), False
        for own, positions, owners in holdings(self._deps.dims[value][number]):
            if own is axis:  # several times where parts of a concatenation share it
                out[owners[live[positions]]] = False
                lies = True
        return out & lies

    def touched(self, value: Value, number: int, axis: Axis, gone: Mapping[Axis, Mask]) -> Mask:
        """Which indices of an axis own a known slice of a dimension, and others maybe.

        Args:
            value: The value.
            number: Which of its dimensions.
            axis: The axis.
            gone: Indices of axes whose slices do not count.
        """
        found = self.slices(value, number)
        out = np.zeros(axis.size, dtype=bool)
        held = list(holdings(self._deps.dims[value][number]))
        if found is None:
            return out
        some = found.mask.cpu().numpy().copy()
        for own, positions, owners in held:
            if own in gone:
                some[positions[gone[own][owners]]] = False
        for own, positions, owners in held:
            if own is axis:
                out[owners[some[positions]]] = True
        return out

    # --- what is known ------------------------------------------------------------------------

    def _dims(self, value: Value) -> Iterator[int]:
        for number, dim in enumerate(self._deps.dims[value]):
            if not self._wanted.isdisjoint(atoms(dim)):
                yield number

    def _weigh(self, value: Value) -> None:
        """Find the zeros of a weight."""
        if not isinstance(value.tensor, torch.Tensor) or not value.tensor.numel():
            return
        dims = list(self._dims(value))
        tensor = self._masked(value, self._stored.numbers(value)) if dims else value.tensor
        for number in dims:
            dead = zeros(tensor, number)
            if bool(dead.any()):
                self._note(value, number, dead, torch.zeros(dead.shape, dtype=self.dtype))

    def _masked(self, value: Value, tensor: torch.Tensor) -> torch.Tensor:
        """Numbers of a weight without the slices that are taken for zeros."""
        masked = tensor
        for number, dim in enumerate(self._deps.dims[value] if self._gone else ()):
            for own, positions, owners in holdings(dim):
                if own in self._gone:
                    at = torch.as_tensor(positions[self._gone[own][owners]], device=tensor.device)
                    masked = masked.index_fill(number, at, 0)
        return masked

    def _note(self, value: Value, at: int, mask: torch.Tensor, numbers: torch.Tensor) -> None:
        if bool(mask.any()):
            self._held.setdefault(value, {})[at] = Slices(mask.cpu(), numbers.cpu())

    def _follow(self, op: Op) -> None:
        """Find out which slices of an operation's results are one number."""
        given = [value for value in op.inputs if value is not None]
        nothing = not any(v in self._held or v in self._bounds for v in given)
        if nothing and not self.made.issuperset(given):
            return
        read = reading(op)
        if isinstance(read, Reading) and self._linear(op, read):
            return
        if (found_in := looked_up(op)) is not None:
            self._rows(op.outputs[0], found_in[0])
            return
        if not self._may_be_known(op, read):
            return
        found: list[dict[int, tuple[torch.Tensor, torch.Tensor]]] = [{} for _ in op.outputs]
        for number, (seed, scale) in enumerate(DRAWS):
            try:
                results = self.drawn(op, seed, scale, self._placed, self._dims)
            except (RuntimeError, IndexError, TypeError, ValueError):
                return  # nothing is known of what it makes of such numbers
            if not all(map(self._fits, op.outputs, results)):
                return
            for value, result, steady in zip(op.outputs, results, found, strict=True):
                self._compare(value, result, steady, number == 0)
            if not any(bool(mask.any()) for steady in found for mask, _ in steady.values()):
                return
        for value, steady in zip(op.outputs, found, strict=True):
            for at, (mask, numbers) in steady.items():
                self._note(value, at, mask, numbers)

    def _fits(self, value: Value, result: torch.Tensor) -> bool:
        """Whether a result has the lengths that matter."""
        return result.dim() == len(value.shape) and all(
            result.shape[at] == value.shape[at] for at in self._dims(value)
        )

    def _compare(
        self,
        value: Value,
        result: torch.Tensor,
        steady: dict[int, tuple[torch.Tensor, torch.Tensor]],
        first: bool,
    ) -> None:
        """Which slices hold one number in this draw, the same as in those before."""
        for at in self._dims(value) if result.is_floating_point() and result.numel() else ():
            rows = result.movedim(at, 0).reshape(result.shape[at], -1)
            if first:
                everywhere = torch.ones(len(rows), dtype=torch.bool, device=rows.device)
                steady[at] = everywhere, rows[:, 0].double()
            mask, numbers = steady[at]
            steady[at] = mask & equal(rows, numbers), numbers

    def _linear(self, op: Op, read: Reading) -> bool:
        """Work out what a linear operation with stored weights makes of what is known.

        Returns:
            Whether there is nothing more to find out.
        """
        weight, bias = read.weight.tensor, None if read.bias is None else read.bias.tensor
        plain = read.ends and not read.product and len(op.outputs) == 1
        stored = read.weight.is_weight and isinstance(weight, torch.Tensor)
        if read.bias is not None and not read.bias.is_weight:
            return False
        if not plain or not stored or not weight.is_floating_point():
            return False
        result = op.outputs[0]
        at = read.output % len(result.shape)
        if at not in set(self._dims(result)):
            return True
        weight = self._masked(read.weight, weight.detach())
        taps = folded(weight, read.inner, read.groups)
        groups, _, channels, _ = taps.shape
        found = self.slices(read.source, read.channel % len(read.source.shape))
        if found is None and read.weight not in self._held:
            return True
        known = torch.zeros(groups * channels, dtype=torch.bool) if found is None else found.mask
        if len(known) != groups * channels:
            return False
        sides = (groups, 1, channels)
        live = (taps != 0).any(3)
        dead = ~(live & ~known.to(taps.device).reshape(sides)).any(2)
        numbers = torch.zeros(dead.shape, dtype=torch.float64, device=taps.device)
        if found is not None and bool(dead.any()):
            given = torch.where(found.mask, found.numbers.double(), 0.0).to(taps.device)
            given = given.reshape(sides)
            numbers = (taps.double().sum(3) * given).sum(2)
            moved = (live & (given != 0)).any(2)  # what is padded with zeros is no constant
            if bool((dead & moved).any()) and border(op, read, self._deps.source.engine):
                dead &= ~moved
        numbers = numbers.reshape(-1)
        if bias is not None:
            assert read.bias is not None
            held = self._masked(read.bias, bias.detach())
            numbers = numbers + held.double().reshape(-1).to(numbers.device)
        self._note(result, at, dead.reshape(-1), numbers)
        return True

    def _rows(self, result: Value, table: Value) -> None:
        """Rows of a table have its zeros, whichever rows they are."""
        ahead = len(result.shape) - len(table.shape)
        for number, found in self._held.get(table, {}).items():
            if number:  # along the others whole rows are zero
                self._note(result, ahead + number, found.mask, found.numbers)

    def _may_be_known(self, op: Op, read: Reading | str | None) -> bool:
        """Whether results may be known: what is only added or taken off does not make them so."""
        if not any(True for value in op.outputs for _ in self._dims(value)):
            return False
        if is_random(op) or is_blank(op) or self._deps.source.engine.random(op):
            return False
        if self.made.issuperset(v for v in op.inputs if v is not None):
            self.made.update(op.outputs)
            return True
        given: Sequence[Value | None] = op.inputs
        if isinstance(read, Reading):
            given = [read.source, read.weight]
        elif is_norm(op):
            given = [op.inputs[0], gain(op)]
        return any(value in self._held or value in self._bounds for value in given)

    def drawn(
        self,
        op: Op,
        seed: int,
        scale: float,
        placed: Callable[[Value, torch.Tensor], torch.Tensor],
        counts: Callable[[Value], Iterable[int]],
    ) -> list[torch.Tensor]:
        """Results of an operation for operands that are drawn.

        Args:
            op: The operation.
            seed: For the draw.
            scale: By how much the numbers are multiplied.
            placed: Puts what is known of a value in its place.
            counts: The dimensions of a value in which every place counts; a few stand for others.

        Raises:
            RuntimeError: It does not run on them, or what it reads are no such numbers.
        """
        graph = self._deps.source
        weights = (v.tensor for v in op.inputs if v is not None and v.is_weight)
        device = next((t.device for t in weights if t is not None), self._device)
        drawn: dict[Value, torch.Tensor] = {}
        for value, shape in shapes(op, counts).items():
            if not value.dtype.rpartition(".")[2].startswith(("float", "bfloat")):
                raise RuntimeError(f"{value.name} holds {value.dtype}")
            x = draw(shape, seed, len(drawn), self.dtype) * scale
            drawn[value] = placed(value, x).to(device)
        copied = op in self._training  # where norms write statistics into what they are given

        def weigh(weight: Value) -> torch.Tensor | None:
            tensor: torch.Tensor | None = weight.tensor
            if tensor is not None and self._gone:
                tensor = self._masked(weight, tensor)
            return tensor.clone() if copied and tensor is not None else tensor

        run = Run(graph, weigh, [drawn], dtype=self.dtype, ops=[op])
        run.step(op)
        return [run.values(value)[0] for value in op.outputs]

    def _placed(self, value: Value, x: torch.Tensor) -> torch.Tensor:
        if value in self._bounds:
            x = self._bounds[value].squeezed(x)
        for number, found in self._held.get(value, {}).items():
            sides = [-1 if at == number else 1 for at in range(x.dim())]
            x = torch.where(found.mask.reshape(sides), found.numbers.to(x).reshape(sides), x)
        return x

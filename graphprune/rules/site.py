"""`Site`: what a rule sees of one operation, and how a signature is applied to it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from math import prod
from typing import Any

from graphprune.core.axes import (
    Dim,
    atom,
    concat,
    cut_all,
    leaves,
    length,
    lock,
    split,
    unify,
)
from graphprune.core.effect import Dims, Effect
from graphprune.core.errors import AxisError
from graphprune.core.graph import Op, Value
from graphprune.rules.notation import Pattern, Signature, Term


class Site:
    """One operation together with the dimensions of its operands.

    Attributes:
        op: The operation.
        effect: What the rule tells of it, filled in as the rule runs.
    """

    __slots__ = ("_dims", "_sizes", "effect", "op")

    def __init__(self, op: Op, dims: Mapping[Value, Dims]) -> None:
        self.op = op
        self.effect = Effect()
        self._dims = dims
        self._sizes: list[tuple[str, Any]] = []

    def attr(self, *names: str, default: Any = None) -> Any:
        """The attribute under the first of `names` that the operation has."""
        for name in names:
            if name in self.op.attrs:
                value = self.op.attrs[name]
                return default if value is None else value
        return default

    def has(self, index: int) -> bool:
        """Whether the operand at `index` is given."""
        return index < len(self.op.inputs) and self.op.inputs[index] is not None

    def dims(self, index: int = 0) -> Dims:
        """Dimensions of an operand."""
        value = self.op.inputs[index]
        assert value is not None
        return self._dims[value]

    def operands(self) -> list[Dims]:
        """Dimensions of every operand that is given."""
        return [self._dims[value] for value in self.op.inputs if value is not None]

    def rank(self, index: int = 0) -> int:
        """Number of dimensions of an operand."""
        return len(self.dims(index))

    def shape(self, index: int = 0) -> tuple[int, ...]:
        """Shape of an operand."""
        value = self.op.inputs[index]
        assert value is not None
        return value.shape

    def dtype(self, index: int = 0) -> str:
        """Element type of an operand."""
        value = self.op.inputs[index]
        assert value is not None
        return value.dtype

    def out_shape(self, index: int = 0) -> tuple[int, ...]:
        """Shape of a result."""
        return self.op.outputs[index].shape

    def axis(self, name: str = "dim", default: int | None = None, rank: int | None = None) -> int:
        """A dimension-number attribute (ONNX calls it `axis`), counted from the left."""
        at = self.attr(name, "axis", default=default)
        return int(at) % max(self.rank() if rank is None else rank, 1)

    def resize(self, attr: str, size: str | Dim | Sequence[str | Dim | None]) -> None:
        """Declare that an attribute holds lengths: of dimensions, or of the signature's letters.

        None in a list leaves that entry of the attribute as it is.
        """
        self._sizes.append((attr, size))

    def pin(self, attr: str, value: Any, dim: Dim) -> None:
        """Keep the value of an attribute whose default would change with a dimension."""
        self.effect.pins[attr] = (value, dim)

    def mix(self, *dims: Dim) -> None:
        """Declare dimensions along which the results depend on each other."""
        self.effect.mixes.extend(dim for dim in dims if dim)

    def contract(self, *dims: Dim) -> None:
        """Declare dimensions that vanish in a sum."""
        self.effect.contracts.extend(dim for dim in dims if dim)

    def zero(self, place: int, point: int, dim: int = 0) -> None:
        """Declare that one operand says which number of another stands for zero.

        Args:
            place: The operand of quantized numbers.
            point: The operand that holds their zero points, left out where they are zero.
            dim: The dimension along which there may be several.
        """
        if self.has(place) and self.has(point):
            self.effect.zeros.append((place, point, dim % max(self.rank(place), 1)))

    def lock(self, dims: Sequence[Dim], why: str) -> None:
        """Forbid removal from dimensions; the reason names the operation."""
        for dim in dims:
            lock(dim, f"{why} at {self.op.name}")

    def fresh(self, index: int = 0, why: str | None = None) -> Dims:
        """New dimensions for a result, locked if a reason is given."""
        reason = f"{why} at {self.op.name}" if why else None
        return [atom(size, reason) for size in self.out_shape(index)]

    def opaque(self, why: str) -> list[Dims]:
        """Lock whatever the operation touches: the safe answer where nothing is known."""
        for dims in self.operands():
            self.lock(dims, why)
        return [self.fresh(i, why) for i in range(len(self.op.outputs))]

    # --- signatures -------------------------------------------------------------------------

    def apply(self, signature: Signature, mixes: str = "", locks: str = "") -> list[Dims]:
        """Bind a signature's letters to the operands and read the results off it."""
        bound: dict[str, Any] = {}
        for pattern, value in zip(signature.inputs, self.op.inputs, strict=False):
            if value is not None:
                self._match(pattern, self._dims[value], bound)
        outputs = [
            self._produce(pattern, value.shape, bound)
            for pattern, value in zip(signature.outputs, self.op.outputs, strict=False)
        ]
        self.contract(*(bound[name] for name in signature.contracted if name in bound))
        self.mix(*self.product(mixes.split(), bound))
        self.lock(self.product(locks.split(), bound), f"length fixed by {self.op.type}")
        if signature.counted and not self.effect.macs:
            self.effect.macs.append(self.product(signature.counted, bound))
        self._bind_sizes(bound)
        return outputs

    @staticmethod
    def product(names: Sequence[str], bound: Mapping[str, Any]) -> tuple[Dim, ...]:
        """The dimensions bound to letters and runs, as one flat product."""
        out: list[Dim] = []
        for name in names:
            found = bound.get(name, ())
            out.extend(found if isinstance(found, list) else [found])
        return tuple(out)

    def finish(self) -> None:
        """Settle the declared sizes of a rule that used no signature."""
        self._bind_sizes({})

    def _bind_sizes(self, bound: Mapping[str, Any]) -> None:
        for attr, size in self._sizes:
            if isinstance(size, str):
                size = bound.get(size, ())
            elif isinstance(size, list):
                size = [bound.get(s, ()) if isinstance(s, str) else s for s in size]
            self.effect.sizes[attr] = size
        self._sizes.clear()

    def _match(self, pattern: Pattern, dims: Dims, bound: dict[str, Any]) -> None:
        run = len(dims) - len(pattern) + 1
        at = 0
        for term in pattern:
            if term.kind == "ellipsis":
                bound["..."] = self.broadcast([bound.get("...", []), dims[at : at + run]])
                at += run
            elif term.kind == "star":
                self.lock(dims[at : at + run], "consumed by a window")
                bound[term.names[0]] = dims[at : at + run]
                at += run
            elif at >= len(dims):
                raise AxisError(self._misfit())
            else:
                self._match_dim(term, dims[at], bound)
                at += 1
        if at != len(dims):
            raise AxisError(self._misfit())

    def _misfit(self) -> str:
        shapes = ", ".join(str(list(v.shape)) for v in self.op.inputs if v is not None)
        return f"{self.op.type} at {self.op.name}: the rule does not fit the shapes {shapes}"

    def _match_dim(self, term: Term, dim: Dim, bound: dict[str, Any]) -> None:
        if term.kind == "one":
            return
        known = [bound.get(name) for name in term.names]
        if None not in known:
            whole = _join(term, [part for part in known if part is not None])
            if length(whole) != length(dim):
                raise AxisError(self._misfit())
            unify(dim, whole, f"sizes do not divide at {self.op.name}")
            return
        if len(term.names) == 1:
            bound[term.names[0]] = dim
            return
        parts = self._separate(term, dim, known)
        for name, part in zip(term.names, parts, strict=True):
            if name in bound:
                unify(bound[name], part, f"sizes do not divide at {self.op.name}")
            else:
                bound[name] = part

    def _separate(self, term: Term, dim: Dim, known: Sequence[Dim | None]) -> list[Dim]:
        sizes = [
            length(part) if part is not None else size
            for part, size in zip(known, term.sizes, strict=True)
        ]
        given = [size for size in sizes if size is not None]
        rest = length(dim) - sum(given) if term.kind == "sum" else length(dim) // prod(given)
        full = [rest if size is None else size for size in sizes]
        parts = cut_all(dim, full) if term.kind == "sum" else split(dim, full)
        if parts is None:
            self.lock([dim], "sizes do not divide")
            parts = [atom(size, f"sizes do not divide at {self.op.name}") for size in full]
        return parts

    def _produce(self, pattern: Pattern, shape: tuple[int, ...], bound: dict[str, Any]) -> Dims:
        out: Dims = []
        run = len(shape) - len(pattern) + 1
        for term in pattern:
            if term.kind == "ellipsis":
                out.extend(bound.get("...", []))
            elif term.kind == "star":
                fresh = [atom(size, f"made by {self.op.name}") for size in shape[len(out) :][:run]]
                bound[term.names[0]] = fresh
                out.extend(fresh)
            elif term.kind == "one":
                out.append(())
            else:
                for name, size in zip(term.names, term.sizes, strict=True):
                    if name not in bound:
                        bound[name] = atom(size or shape[len(out)])
                out.append(_join(term, [bound[name] for name in term.names]))
        if tuple(length(dim) for dim in out) != shape:
            raise AxisError(f"{self._misfit()} -> {list(shape)}")
        return out

    def broadcast(self, operands: Sequence[Dims]) -> Dims:
        """Unify dimensions aligned from the right; a length of one broadcasts."""
        rank = max((len(dims) for dims in operands), default=0)
        out: Dims = [()] * rank
        for dims in operands:
            for i, dim in enumerate(dims, rank - len(dims)):
                if not out[i]:
                    out[i] = dim
                elif dim and dim is not out[i]:
                    unify(out[i], dim, f"sizes do not divide at {self.op.name}")
        return out


def _join(term: Term, parts: Sequence[Dim]) -> Dim:
    if term.kind == "sum":
        return concat(parts)
    return tuple(axis for part in parts for axis in leaves(part))

"""`Site`: what a rule sees of one operation, and how a signature is applied to it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from graphprune.core.axes import Dim, atom, length, lock
from graphprune.core.effect import Dims, Effect, Encoding, Packing
from graphprune.core.errors import AxisError
from graphprune.core.graph import Op, Value
from graphprune.rules.binding import Binding, Misfit, broadcast
from graphprune.rules.notation import Signature, parse


@dataclass(frozen=True)
class Bound:
    """A signature, and the operands that its patterns stand for.

    Attributes:
        signature: The signature.
        operands: What each pattern of its left side is; None for what is absent.
        sizes: Lengths of its letters.
        whole: Whether it is all that the operation does with its operands.
    """

    signature: Signature
    operands: tuple[Value | None, ...]
    sizes: Mapping[str, int]
    whole: bool = True


class Site:
    """One operation together with the dimensions of its operands.

    Attributes:
        op: The operation.
        effect: What the rule tells of it, filled in as the rule runs.
        products: Signatures that say which operands are multiplied and summed, as they were
            applied or stated.
        nonlinear: Why they cannot be read as such, where the rule says so.
        factors: By what a product is multiplied, and what is added to it.
        runs: The place of the operand that says where the rows end that each of several matrices
            reads; None for others.
        text: The signature that the rule gave, or the name of its function.
    """

    __slots__ = ("_dims", "_sizes", "effect", "factors", "nonlinear", "op", "products", "runs",
                 "text")  # fmt: skip

    def __init__(self, op: Op, dims: Mapping[Value, Dims]) -> None:
        self.op = op
        self.effect = Effect()
        self._dims = dims
        self._sizes: list[tuple[str, Any]] = []
        self.products: list[Bound] = []
        self.nonlinear: str | None = None
        self.factors = (1.0, 1.0)
        self.runs: int | None = None
        self.text = ""

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

    def reads(self, index: int) -> bool:
        """Whether anything reads a result."""
        return index not in self.op.unread

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

    def average(self, *dims: Dim) -> None:
        """Declare dimensions that vanish in a sum which is divided by their length."""
        self.contract(*dims)
        self.effect.averages.extend(dim for dim in dims if dim)

    def encode(
        self,
        place: int,
        *scales: int,
        zero: int | None = None,
        dim: int = 0,
        block: int = 0,
        made: bool = False,
    ) -> None:
        """Declare how the integers of an operand stand for numbers: `(q - zero) * scale`.

        Args:
            place: The operand.
            *scales: Operands of which the step between two integers is the product.
            zero: The operand that holds the integers that stand for zero; left out, 0 does.
            dim: The dimension along which these may differ.
            block: How many indices of it in a row share them; 0: one, or all.
            made: Whether it is a result whose integers these operands tell of.
        """
        given = [self.op.inputs[at] for at in scales if self.has(at)]
        point = self.op.inputs[zero] if zero is not None and self.has(zero) else None
        held = tuple(value for value in given if value is not None)
        if made:
            rank = len(self.out_shape(place))
            self.effect.made[place] = Encoding(held, point, dim % max(rank, 1), block)
        elif self.has(place):
            at = dim % max(self.rank(place), 1)
            self.effect.encodings[place] = Encoding(held, point, at, block)

    def pack(
        self, place: int, dims: Dims, scale: int, zero: int, bias: int, bits: int, block: int
    ) -> None:
        """Declare that an operand holds a matrix in few bits (`Packing`).

        Args:
            place: The operand.
            dims: The matrix's dimensions: outputs, and channels.
            scale: The operand that holds the steps.
            zero: The operand that holds the integers that stand for zero.
            bias: The operand that is added to the product.
            bits: Of each integer.
            block: Channels in a block.
        """
        held, steps = self.op.inputs[place], self.op.inputs[scale]
        points, added = (self.op.inputs[at] if self.has(at) else None for at in (zero, bias))
        if held is not None and steps is not None:
            shape = tuple(length(dim) for dim in dims)
            matrix = Value(f"{held.name} as numbers", shape, "float32")
            self.effect.packed[place] = Packing(matrix, dims, steps, points, added, bits, block)

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

    def whole(self, signature: Signature, mixes: str = "", locks: str = "") -> list[Dims]:
        """As `apply`, of a signature that must account for every operand and every result."""
        given = [i for i, value in enumerate(self.op.inputs) if value is not None and value.shape]
        if given and given[-1] >= len(signature.inputs):
            cause = f"operand {given[-1]} has no pattern"
            raise AxisError(self.misfit(signature.text, cause))
        if len(signature.outputs) < len(self.op.outputs):
            cause = f"result {len(signature.outputs)} has no pattern"
            raise AxisError(self.misfit(signature.text, cause))
        return self.apply(signature, mixes, locks)

    def apply(self, signature: Signature, mixes: str = "", locks: str = "") -> list[Dims]:
        """Bind a signature's letters to the operands and read the results off it.

        Raises:
            AxisError: It does not fit; the message names the operation, the signature, the shapes
                and the cause.
        """
        bound = Binding(self.op)
        try:
            for number, (pattern, value) in enumerate(
                zip(signature.inputs, self.op.inputs, strict=False)
            ):
                if value is not None:
                    bound.match(pattern, self._dims[value], f"operand {number}")
            outputs = [
                bound.produce(pattern, value.shape, f"result {number}")
                for number, (pattern, value) in enumerate(
                    zip(signature.outputs, self.op.outputs, strict=False)
                )
            ]
        except Misfit as error:
            raise AxisError(self.misfit(signature.text, str(error))) from error
        self._note(signature, bound.sizes())
        self.contract(*(bound.dims[n] for n in signature.contracted if n in bound.dims))
        self.mix(*bound.product(mixes.split()))
        self.lock(bound.product(locks.split()), f"length fixed by {self.op.type}")
        if signature.counted and not self.effect.macs:
            self.effect.macs.append(bound.product(signature.counted))
        self._bind_sizes(bound.dims)
        return outputs

    def _note(self, signature: Signature, sizes: Mapping[str, int]) -> None:
        operands = self.op.inputs[: len(signature.inputs)]
        rest = self.op.inputs[len(signature.inputs) :]
        whole = all(value is None or not value.shape for value in rest)
        self.products.append(Bound(signature, tuple(operands), sizes, whole))

    def state(self, text: str, operands: Sequence[Value | None], whole: bool = True) -> None:
        """State what is multiplied and summed inside the operation, for rules without a signature.

        Args:
            text: A signature.
            operands: What its patterns stand for; results too, where states come back.
            whole: Whether they are exactly what is read, and the weight is a plain matrix.
        """
        signature = parse(text)
        sizes: dict[str, int] = {}
        for pattern, value in zip(signature.inputs, operands, strict=True):
            if value is not None:
                for term, size in zip(pattern[::-1], value.shape[::-1], strict=False):
                    if term.kind == "name":
                        sizes[term.names[0]] = size
        self.products.append(Bound(signature, tuple(operands), sizes, whole))

    def aligned(self, index: int, letters: str) -> str:
        """The pattern of an operand that broadcasts against dimensions of these letters."""
        if not self.has(index):
            return letters
        names = letters.split()[len(letters.split()) - self.rank(index) :]
        sizes = zip(names, self.shape(index), strict=True)
        return " ".join("1" if size == 1 else name for name, size in sizes)

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

    def misfit(self, text: str, cause: str) -> str:
        """What is said of a signature that does not fit."""
        return said(self.op, text, f"does not fit the shapes {shapes(self.op)}: {cause}")

    def broadcast(self, operands: Sequence[Dims]) -> Dims:
        """Unify dimensions aligned from the right; a length of one broadcasts."""
        return broadcast(self.op, operands)

    def compared(self) -> tuple[Dims, Dims]:
        """The dimensions of all operands, aligned from the right, and those that only some have.

        Where an index of the others goes, the operands that are repeated along them stay.
        """
        dims = self.broadcast(self.operands())
        given = [value.shape for value in self.op.inputs if value is not None]
        held = [{s[-i] if i <= len(s) else 1 for s in given} for i in range(len(dims), 0, -1)]
        pairs = list(zip(dims, held, strict=True))
        return [d for d, n in pairs if len(n) == 1], [d for d, n in pairs if len(n) > 1]


def shapes(op: Op) -> str:
    """The shapes of an operation's operands and results."""
    given = ", ".join("none" if v is None else str(list(v.shape)) for v in op.inputs)
    return f"{given} -> {', '.join(str(list(v.shape)) for v in op.outputs)}"


def said(op: Op, rule: str, what: str) -> str:
    """A sentence on the rule of an operation, as every error about rules begins."""
    return f"{op.type} at {op.name}: the rule {rule!r} {what}"

"""products: which operands an operation multiplies and sums over, by the letters of its rule."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import combinations

from graphprune.core.graph import Op, Value
from graphprune.rules.facts import found
from graphprune.rules.notation import Pattern, Term
from graphprune.rules.registry import stated
from graphprune.rules.site import Bound

WINDOWED = 1
"""The freedom of an operand that is read over places, as the kernel of a convolution is."""


@dataclass(frozen=True)
class Product:
    """Two values that are multiplied, and summed over what they share and the result lacks.

    Attributes:
        x: What is read, or either of them where both are.
        weight: What it is multiplied by.
        x_letters: The letters of each dimension of x, outermost first; none where a dimension
            has no part in the sum.
        weight_letters: Those of the weight.
        sizes: Lengths of the letters.
        contracted: The letters that are summed over.
    """

    x: Value
    weight: Value
    x_letters: tuple[tuple[str, ...], ...]
    weight_letters: tuple[tuple[str, ...], ...]
    sizes: dict[str, int]
    contracted: frozenset[str]


def products(op: Op) -> list[Product]:
    """Every pair of operands that an operation multiplies and sums.

    Recurrent layers multiply their states too: the results that show them stand for those.
    """
    if not stated(op).linear:
        return []
    return [product for bound in found(op).products for product in _pairs(bound)]


def _pairs(bound: Bound) -> Iterator[Product]:
    for one, other in contracting(bound):
        first, second = bound.operands[one], bound.operands[other]
        assert first is not None and second is not None
        patterns = bound.signature.inputs
        letters = (_letters(patterns[one], first), _letters(patterns[other], second))
        sizes = dict(bound.sizes)
        for value, held in zip((first, second), letters, strict=True):
            for size, names in zip(value.shape, held, strict=True):
                if len(names) == 1:
                    sizes.setdefault(names[0], size)
        shared = (
            letters_of(patterns[one]) & letters_of(patterns[other]) & bound.signature.contracted
        )
        yield Product(first, second, *letters, sizes, shared)


def contracting(bound: Bound) -> Iterator[tuple[int, int]]:
    """Pairs of operands that share a letter which no result holds."""
    patterns = bound.signature.inputs
    given = [i for i, value in enumerate(bound.operands) if value is not None]
    for one, other in combinations(given, 2):
        shared = letters_of(patterns[one]) & letters_of(patterns[other])
        if shared & bound.signature.contracted:
            yield _ordered(bound, one, other)


def _ordered(bound: Bound, one: int, other: int) -> tuple[int, int]:
    """What is read, and the weight it is read through: the one with fewer samples and places."""
    patterns = bound.signature.inputs
    runs = freedom(patterns[one]), freedom(patterns[other])
    if runs[0] != runs[1]:
        return (one, other) if runs[0] > runs[1] else (other, one)
    first = bound.operands[one]
    swapped = runs[0] != WINDOWED and first is not None and first.is_weight
    return (other, one) if swapped else (one, other)


def freedom(pattern: Pattern) -> int:
    """How freely an operand is read: over all samples, over places, or as it is."""
    kinds = {term.kind for term in pattern}
    return 2 if "ellipsis" in kinds else WINDOWED if "star" in kinds else 0


def letters_of(pattern: Pattern) -> frozenset[str]:
    """The letters of a pattern."""
    kinds = ("name", "product")
    return frozenset(name for term in pattern if term.kind in kinds for name in term.names)


def _letters(pattern: Pattern, value: Value) -> tuple[tuple[str, ...], ...]:
    """The letters of each dimension of a value; those of a run of samples, counted from behind."""
    out: list[tuple[str, ...]] = []
    run = len(value.shape) - len(pattern) + 1
    for term in pattern:
        if term.kind == "ellipsis":
            sizes = value.shape[len(out) : len(out) + run]
            out += [(f"...{run - i}",) if size > 1 else () for i, size in enumerate(sizes)]
        elif term.kind == "star":
            out += [()] * run
        else:
            out.append(term.names if term.kind in ("name", "product") else ())
    return tuple(out)


def place_of(pattern: Pattern, letter: str) -> int | None:
    """The dimension that holds a letter as its innermost factor, from the end if it is behind."""
    runs = [i for i, term in enumerate(pattern) if term.kind in ("ellipsis", "star")]
    for number, term in enumerate(pattern):
        if term.kind in ("name", "product") and term.names[-1] == letter:
            return number if runs and number < runs[0] else number - len(pattern)
    return None


def only_letters(pattern: Pattern) -> tuple[str, ...]:
    """The letters of the only dimension of an operand that is longer than one."""
    long: list[Term] = [term for term in pattern if term.kind != "one"]
    return long[0].names if len(long) == 1 and long[0].kind in ("name", "product") else ()

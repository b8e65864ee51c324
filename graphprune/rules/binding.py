"""Binding: a signature's letters, and the dimensions that they stand for at one operation."""

from __future__ import annotations

from collections.abc import Sequence
from math import prod
from typing import Any

from graphprune.core.axes import Dim, atom, concat, cut_all, leaves, length, lock, split, unify
from graphprune.core.effect import Dims
from graphprune.core.graph import Op
from graphprune.rules.notation import Pattern, Term


class Misfit(Exception):
    """Why a signature does not fit."""


class Binding:
    """The dimensions that letters stand for, found as patterns are matched one after the other.

    Attributes:
        dims: For each letter its dimension, for each run of dimensions the list of them.
    """

    def __init__(self, op: Op) -> None:
        self._op = op
        self.dims: dict[str, Any] = {}

    def sizes(self) -> dict[str, int]:
        """Lengths of the letters."""
        return {name: length(dim) for name, dim in self.dims.items() if isinstance(dim, tuple)}

    def product(self, names: Sequence[str]) -> tuple[Dim, ...]:
        """The dimensions bound to letters and runs, as one flat product."""
        out: list[Dim] = []
        for name in names:
            found = self.dims.get(name, ())
            out.extend(found if isinstance(found, list) else [found])
        return tuple(out)

    def match(self, pattern: Pattern, dims: Dims, what: str) -> None:
        """Bind the letters of an operand's pattern.

        Raises:
            Misfit: The pattern does not fit the dimensions.
        """
        run = len(dims) - len(pattern) + 1
        at = 0
        for term in pattern:
            if term.kind == "ellipsis":
                self.dims["..."] = broadcast(
                    self._op, [self.dims.get("...", []), dims[at : at + run]]
                )
                at += run
            elif term.kind == "star":
                self._lock(dims[at : at + run], "consumed by a window")
                self.dims[term.names[0]] = dims[at : at + run]
                at += run
            elif at < len(dims):
                self._match_dim(term, dims[at], f"dimension {at} of {what}")
                at += 1
            else:
                at += 1
        if at != len(dims) or run < 0:
            raise Misfit(f"{what} has {len(dims)} dimensions, its pattern {_counted(pattern)}")

    def _match_dim(self, term: Term, dim: Dim, what: str) -> None:
        if term.kind == "one":
            return
        known = [self.dims.get(name) for name in term.names]
        if None not in known:
            whole = _join(term, [part for part in known if part is not None])
            if length(whole) != length(dim):
                letters = f"{' '.join(term.names)!r} is {length(whole)} elsewhere"
                raise Misfit(f"{what} is {length(dim)} long, but {letters}")
            unify(dim, whole, f"sizes do not divide at {self._op.name}")
            return
        if len(term.names) == 1:
            self.dims[term.names[0]] = dim
            return
        parts = self._separate(term, dim, known)
        for name, part in zip(term.names, parts, strict=True):
            if name in self.dims:
                unify(self.dims[name], part, f"sizes do not divide at {self._op.name}")
            else:
                self.dims[name] = part

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
            self._lock([dim], "sizes do not divide")
            parts = [atom(size, f"sizes do not divide at {self._op.name}") for size in full]
        return parts

    def produce(self, pattern: Pattern, shape: tuple[int, ...], what: str) -> Dims:
        """The dimensions of a result, read off its pattern.

        Raises:
            Misfit: They are not those of the result.
        """
        out: Dims = []
        run = len(shape) - len(pattern) + 1
        if len(pattern) > len(shape) + any(t.kind in ("ellipsis", "star") for t in pattern):
            raise Misfit(f"{what} has {len(shape)} dimensions, its pattern {_counted(pattern)}")
        for term in pattern:
            if term.kind == "ellipsis":
                out.extend(self.dims.get("...", []))
            elif term.kind == "star":
                fresh = [atom(size, f"made by {self._op.name}") for size in shape[len(out) :][:run]]
                self.dims[term.names[0]] = fresh
                out.extend(fresh)
            elif term.kind == "one":
                out.append(())
            else:
                for name, size in zip(term.names, term.sizes, strict=True):
                    if name not in self.dims:
                        if len(out) >= len(shape):
                            more = f"its pattern {len(out) + 1} or more"
                            raise Misfit(f"{what} has {len(shape)} dimensions, {more}")
                        self.dims[name] = atom(size or shape[len(out)])
                out.append(_join(term, [self.dims[name] for name in term.names]))
        made = [length(dim) for dim in out]
        if tuple(made) != shape:
            raise Misfit(f"{what} would have the shape {made}")
        return out

    def _lock(self, dims: Sequence[Dim], why: str) -> None:
        for dim in dims:
            lock(dim, f"{why} at {self._op.name}")


def broadcast(op: Op, operands: Sequence[Dims]) -> Dims:
    """Unify dimensions aligned from the right; a length of one broadcasts."""
    rank = max((len(dims) for dims in operands), default=0)
    out: Dims = [()] * rank
    for dims in operands:
        for i, dim in enumerate(dims, rank - len(dims)):
            if not out[i]:
                out[i] = dim
            elif dim and dim is not out[i]:
                unify(out[i], dim, f"sizes do not divide at {op.name}")
    return out


def _join(term: Term, parts: Sequence[Dim]) -> Dim:
    if term.kind == "sum":
        return concat(parts)
    return tuple(axis for part in parts for axis in leaves(part))


def _counted(pattern: Pattern) -> str:
    """How many dimensions a pattern has."""
    runs = sum(term.kind in ("ellipsis", "star") for term in pattern)
    return f"at least {len(pattern) - 1}" if runs else str(len(pattern))

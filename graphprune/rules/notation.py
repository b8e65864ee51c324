"""The notation of op signatures: `"n (g=4 i) *, (g=4 o) i *k -> n (g=4 o) *s"`.

One comma-separated pattern per tensor operand, then `->`, then one per result. A pattern is a
list of terms, one per dimension:

- `c` a dimension; the same letter is the same dimension wherever it occurs;
- `(a b)` a row-major product, `(a + b)` a sum of segments; `g=4` gives a length that the
  operands alone do not settle;
- `...` any number of dimensions, aligned from the right and broadcast across operands;
- `*` any number of dimensions that are consumed, or made anew: locked. Named (`*k`), they count
  in the multiply-accumulates;
- `1` a dimension of length one.

Letters of the operands that no result holds are *contracted*.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from functools import cached_property, lru_cache
from typing import Literal

from graphprune.core.errors import AxisError

_TOKEN = re.compile(r"\s*(\(|\)|\.\.\.|\*\w*|\+|[A-Za-z_]\w*(?:=\d+)?|1)")


@dataclass(frozen=True, slots=True)
class Term:
    """One dimension of a pattern, or (`...`, `*`) a run of them."""

    kind: Literal["name", "product", "sum", "ellipsis", "star", "one"]
    names: tuple[str, ...] = ()
    sizes: tuple[int | None, ...] = ()


Pattern = tuple[Term, ...]


@dataclass(frozen=True)
class Signature:
    """A parsed signature."""

    text: str
    inputs: tuple[Pattern, ...]
    outputs: tuple[Pattern, ...]

    @cached_property
    def contracted(self) -> frozenset[str]:
        """Letters of the operands that no result holds."""
        return _letters(self.inputs) - _letters(self.outputs)

    @cached_property
    def counted(self) -> tuple[str, ...]:
        """What the multiply-accumulates are the product of, if the op contracts two operands."""
        if len(self.inputs) < 2 or not self.contracted:
            return ()
        runs = {t.names[0] for p in self.outputs for t in p if t.kind == "ellipsis"}
        runs |= {t.names[0] for p in self.inputs + self.outputs for t in p if _is_named_run(t)}
        return (*sorted(_letters(self.inputs) | _letters(self.outputs)), *sorted(runs))


def _is_named_run(term: Term) -> bool:
    return term.kind == "star" and term.names[0] != "*"


def _letters(patterns: tuple[Pattern, ...]) -> frozenset[str]:
    kinds = ("name", "product", "sum")
    return frozenset(n for p in patterns for t in p if t.kind in kinds for n in t.names)


@lru_cache(maxsize=4096)
def parse(text: str) -> Signature:
    """Parse a signature.

    Raises:
        AxisError: The text is not in the notation; the message shows where.
    """
    left, arrow, right = text.partition("->")
    if not arrow:
        raise AxisError(f"signature {text!r} has no '->'")
    return Signature(text, _patterns(left), _patterns(right))


def _patterns(text: str) -> tuple[Pattern, ...]:
    return tuple(_pattern(part) for part in text.split(","))


@lru_cache(maxsize=4096)
def _pattern(text: str) -> Pattern:
    terms: list[Term] = []
    group: list[str] | None = None
    at = 0
    while text[at:].strip():
        match = _TOKEN.match(text, at)
        if match is None:
            raise AxisError(f"cannot read {text[at:].strip()!r} in pattern {text.strip()!r}")
        token, at = match.group(1), match.end()
        if token == "(":
            group = []
        elif token == ")" and group is not None:
            terms.append(_group(group))
            group = None
        elif group is not None:
            group.append(token)
        else:
            terms.append(_term(token))
    if group is not None or sum(t.kind in ("ellipsis", "star") for t in terms) > 1:
        raise AxisError(f"open bracket, or more than one of '...' and '*', in {text.strip()!r}")
    return tuple(terms)


def _term(token: str) -> Term:
    if token == "...":
        return Term("ellipsis", ("...",))
    if token.startswith("*"):
        return Term("star", (token,))
    return Term("one") if token == "1" else Term("name", (token,), (None,))


def _group(tokens: list[str]) -> Term:
    pairs = [token.partition("=") for token in tokens if token != "+"]
    names = tuple(name for name, _, _ in pairs)
    sizes = tuple(int(size) if size else None for _, _, size in pairs)
    return Term("sum" if "+" in tokens else "product", names, sizes)

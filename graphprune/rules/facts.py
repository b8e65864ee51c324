"""facts: what is known of an operation, whichever frontend it came from.

All of it follows from the signature of the operation's rule, or is stated beside it
(`graphprune.rules.registry.Stated`): an operation of one's own is known as well as a built-in one.
`products`, `readings` and `scalings` tell what follows of its arithmetic.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from graphprune.core.axes import atom
from graphprune.core.effect import Dims, Encoding
from graphprune.core.errors import AxisError
from graphprune.core.graph import Op, Value
from graphprune.rules.registry import _RULES, Rule, applied, stated
from graphprune.rules.site import Bound, Site


@dataclass(frozen=True, slots=True)
class Found:
    """What applying an operation's rule to its shapes told; it does not hold the operation.

    Attributes:
        rule: The rule that was applied.
        operands: The operands that it was applied to.
        fits: Whether the rule fits them.
        products: Signatures that say which operands are multiplied and summed.
        nonlinear: Why they cannot be read as such, where the rule says so.
        factors: By what a product is multiplied, and what is added to it.
        encodings: How the integers of operands stand for numbers, by place.
        made: How those of results do.
        runs: The place of the operand that says where the rows end that each of several matrices
            reads.
        text: The signature that the rule gave, or the name of its function.
    """

    rule: Rule | None
    operands: tuple[Value | None, ...]
    fits: bool = False
    products: tuple[Bound, ...] = ()
    nonlinear: str | None = None
    factors: tuple[float, float] = (1.0, 1.0)
    encodings: Mapping[int, Encoding] = field(default_factory=dict)
    made: Mapping[int, Encoding] = field(default_factory=dict)
    runs: int | None = None
    text: str = ""


def found(op: Op) -> Found:
    """What an operation's rule tells of it, applied to axes of its own.

    Rules are applied once: the answer is kept with the operation, for as long as it has this rule
    and these operands.
    """
    rule, operands = _RULES.get(op.type), tuple(op.inputs)
    kept: Found | None = op.known
    if kept is None or kept.rule is not rule or kept.operands != operands:
        kept = op.known = _applied(op, rule, operands)
    return kept


def _applied(op: Op, rule: Rule | None, operands: tuple[Value | None, ...]) -> Found:
    if rule is None:
        return Found(rule, operands)
    dims: dict[Value, Dims] = {v: [atom(size) for size in v.shape] for v in operands if v}
    site = Site(op, dims)
    try:
        applied(rule, site)
    except AxisError:
        return Found(rule, operands, text=site.text)
    return Found(
        rule, operands, True, tuple(site.products), site.nonlinear, site.factors,
        site.effect.encodings, site.effect.made, site.runs, site.text,
    )  # fmt: skip


def shared_memory(op: Op) -> Value | None:
    """The operand whose memory an operation's results share, or None."""
    return op.inputs[0] if stated(op).view and op.inputs else None


def adds(op: Op) -> bool:
    """Whether an operation adds its operands as they are."""
    return stated(op).does == "add" and op.attrs.get("alpha", 1) == 1


def sums(op: Op) -> bool:
    """Whether an operation adds its operands, or subtracts one from the other."""
    return stated(op).does in ("add", "subtract")


def multiplies(op: Op) -> bool:
    """Whether an operation multiplies its operands."""
    return stated(op).does == "multiply"


def divides(op: Op) -> bool:
    """Whether an operation divides its first operand by the second."""
    return stated(op).does == "divide"


def joins(op: Op) -> bool:
    """Whether an operation lays its operands side by side along a dimension."""
    return stated(op).does == "join"


def stacks(op: Op) -> bool:
    """Whether an operation lays its operands side by side along a new dimension."""
    return stated(op).does == "stack"


def copies(op: Op) -> bool:
    """Whether an operation gives its first operand's numbers, if in another type."""
    return stated(op).does == "copy"


def moves(op: Op) -> bool:
    """Whether an operation's results are the first operand's elements, if at other places."""
    return stated(op).view or stated(op).does in ("move", "cut")


def cuts_off(op: Op) -> bool:
    """Whether an operation takes a part of a dimension: its numbers tell the place."""
    return stated(op).does == "cut"


def looked_up(op: Op) -> tuple[Value, Value] | None:
    """A table of which an operation takes rows, and the numbers of those rows."""
    if stated(op).does != "look up" or op.attrs.get("axis", 0) != 0 or len(op.inputs) < 2:
        return None
    table, rows = op.inputs[:2]
    return None if table is None or rows is None else (table, rows)


def is_elementwise(type_: str) -> bool:
    """Whether operations of a type act on each element by itself, and so keep its place."""
    rule = _RULES.get(type_)
    return rule is not None and rule.stated.elementwise


def is_random(op: Op) -> bool:
    """Whether an operation's results are drawn, or can be."""
    return stated(op).random


def is_blank(op: Op) -> bool:
    """Whether an operation leaves its results as memory was."""
    return stated(op).blank


def is_own(op: Op) -> bool:
    """Whether the rule of an operation comes from outside the library."""
    rule = found(op).rule
    return rule is not None and not rule.ours


def is_recurrent(op: Op) -> bool:
    """Whether an operation carries states from step to step."""
    return stated(op).recurrent

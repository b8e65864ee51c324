"""lengths: what an operation's rule tells of an operand whose lengths are not all known."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import suppress
from dataclasses import replace

from graphprune.core.axes import Dim, atom, leaves
from graphprune.core.errors import AxisError
from graphprune.core.graph import Op, Value
from graphprune.rules.registry import _RULES, applied
from graphprune.rules.site import Site

_OPEN = 1000003
"""Stands for a length that is not known: a prime, which no weight has."""


def settled(op: Op, place: int) -> dict[int, int]:
    """Lengths of an operand that the other operands settle, by dimension.

    A length is tried for each of the operand's dimensions: it is settled where the rule makes of
    it, and of no other, the same axis as one of the other operands has.

    Args:
        op: The operation; None among its operands stands for what is absent or unknown.
        place: The operand.
    """
    others = [value for at, value in enumerate(op.inputs) if value is not None and at != place]
    groups = {x for x in op.attrs.values() if type(x) is int and x > 1}
    sizes = {size * group for v in others for size in v.shape for group in (1, *groups)} - {1}
    operand = op.inputs[place]
    found: dict[int, int] = {}
    for at in range(0 if operand is None else len(operand.shape)):
        fitting = [size for size in sizes if _meets(op, place, at, size)]
        if len(fitting) == 1:
            found[at] = fitting[0]
        elif not fitting and _fits(op, place, at, 1) and not _fits(op, place, at, _OPEN + at):
            found[at] = 1  # it has no axis that could be met
    return found


def _fits(op: Op, place: int, at: int, size: int) -> bool:
    """Whether the rule takes a dimension of such a length."""
    rule = _RULES.get(op.type)
    if rule is None:
        return False
    try:
        applied(rule, _site(op, place, at, size))
    except AxisError:
        return False
    return True


def _site(op: Op, place: int, at: int, size: int) -> Site:
    """An operation of which one length of an operand is tried, and the others stay open."""
    operand = op.inputs[place]
    assert operand is not None
    shape = tuple(size if i == at else _OPEN + i for i in range(len(operand.shape)))
    made = _with(op, place, shape, [])
    return Site(made, {v: [atom(n) for n in v.shape] for v in made.inputs if v is not None})


def kept(op: Op, place: int) -> Sequence[int | None]:
    """For each dimension of the first result, which dimension of an operand it is.

    Args:
        op: The operation; all its operands are known.
        place: The operand.
    """
    rule, operand = _RULES.get(op.type), op.inputs[place]
    if rule is None or operand is None:
        return []
    shape = tuple(_OPEN + at for at in range(len(operand.shape)))
    made = _with(op, place, shape, [Value("result", shape, "float32")])
    dims = {v: [atom(size) for size in v.shape] for v in made.inputs if v is not None}
    own = made.inputs[place]
    assert own is not None
    before = list(dims[own])
    try:
        results = rule.function(Site(made, dims))
    except Exception:  # a rule of whoever's that needs what is not known yet
        return []
    if isinstance(results, str) or not results:
        return []
    return [next((i for i, d in enumerate(before) if _same(d, dim)), None) for dim in results[0]]


def _meets(op: Op, place: int, at: int, size: int) -> bool:
    """Whether a dimension of such a length is an axis of another operand."""
    rule = _RULES.get(op.type)
    if rule is None:
        return False
    site = _site(op, place, at, size)
    others = [
        axis
        for i, value in enumerate(site.op.inputs)
        if value is not None and i != place
        for dim in site.dims(i)
        for axis in dim
    ]
    with suppress(AxisError):  # other lengths are wrong still, and there are no results
        applied(rule, site)
    met = set(leaves(site.dims(place)[at]))
    shared = [parts for axis in others if not met.isdisjoint(parts := leaves((axis,)))]
    refined = any("do not divide" in (axis.reason or "") for parts in shared for axis in parts)
    return bool(shared) and not refined


def _same(a: Dim, b: Dim) -> bool:
    return bool(a) and leaves(a) == leaves(b)


def _with(op: Op, place: int, shape: tuple[int, ...], outputs: list[Value]) -> Op:
    """An operation whose operand has another shape."""
    operand = op.inputs[place]
    assert operand is not None
    inputs = list(op.inputs)
    inputs[place] = replace(operand, shape=shape)
    return Op(op.name, op.type, inputs, outputs, op.attrs, op.module, None)

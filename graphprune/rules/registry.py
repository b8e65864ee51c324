"""The table of op signatures: one rule per operation, shared by both frontends."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import TypeAlias, TypeVar

from graphprune.core.effect import Dims, Effect
from graphprune.core.errors import AxisError
from graphprune.core.graph import Op, Value
from graphprune.rules.notation import parse
from graphprune.rules.site import Site

RuleFunction: TypeAlias = "Callable[[Site], str | list[Dims]]"
F = TypeVar("F", bound=RuleFunction)


@dataclass(frozen=True, slots=True)
class Rule:
    """A rule, and the letters of its signature that the operation mixes or fixes."""

    function: RuleFunction
    mixes: str
    locks: str


_RULES: dict[str, Rule] = {}
_LOCKED: dict[str, str] = {}


def axis_rule(*types: str, mixes: str = "", locks: str = "") -> Callable[[F], F]:
    """Register the rule for operation types.

    Args:
        types: Operation types, of either frontend: `"aten.conv2d"`, `"Conv"`. The in-place form
            of an ATen operation goes by the same type.
        mixes: Letters of the signature along which results depend on each other, so that
            removal changes what remains (normalisation, softmax).
        locks: Letters of the signature whose length the operation fixes.

    The decorated function takes a `Site` and returns either a signature
    (see `graphprune.rules.notation`) or the dimensions of every result.

    Raises:
        AxisError: A type has a rule already.

    Example::

        @axis_rule("my.scale")
        def scale(op: Site) -> str:
            return "n c ..., c -> n c ..."
    """

    def register(function: F) -> F:
        for name in types:
            if name in _RULES:
                raise AxisError(f"{name} has a rule already: {_RULES[name].function.__name__}")
            _RULES[name] = Rule(function, mixes, locks)
        return function

    return register


def locked(why: str, *types: str) -> None:
    """Register operations whose axes are locked on purpose.

    They are known, unlike operations without a rule: nothing of theirs can go, or the analysis
    of it would gain nothing.

    Args:
        why: The reason, in words.
        *types: Operation types, as for `axis_rule`.

    Raises:
        AxisError: A type has a rule already.
    """

    @axis_rule(*types)
    def lock_all(op: Site) -> list[Dims]:
        return op.opaque(why)

    _LOCKED.update(dict.fromkeys(types, why))


def locked_types() -> dict[str, str]:
    """Operation types that are locked on purpose, and why."""
    return dict(sorted(_LOCKED.items()))


def known_types() -> list[str]:
    """Every operation type that has a rule."""
    return sorted(_RULES)


def is_known(type_: str) -> bool:
    """Whether an operation type has a rule."""
    return type_ in _RULES


def infer(op: Op, dims: Mapping[Value, Dims], strict: bool = False) -> tuple[list[Dims], Effect]:
    """Apply the rule of one operation.

    Args:
        op: The operation.
        dims: The dimensions of its operands.
        strict: Complain instead of locking.

    Returns:
        The dimensions of every result, and the operation's effect. An operation without a
        rule, or whose rule does not fit its shapes, is locked: it costs prunability only.

    Raises:
        AxisError: With `strict`, there is no rule, or it does not fit the shapes.
    """
    site = Site(op, dims)
    rule = _RULES.get(op.type)
    if rule is None:
        if strict:
            raise AxisError(f"{op.type} at {op.name} has no rule")
        return site.opaque(f"unknown operation {op.type}"), site.effect
    try:
        found = rule.function(site)
        if isinstance(found, str):
            found = site.apply(parse(found), rule.mixes, rule.locks)
        site.finish()
    except AxisError as error:
        if strict:
            raise
        return site.opaque(str(error)), Effect()
    except (ArithmeticError, AssertionError, LookupError, TypeError, ValueError) as error:
        if strict:
            raise
        return site.opaque(f"{op.type} without what its rule needs ({error})"), Effect()
    return found, site.effect

"""The table of op signatures: one rule per operation, shared by both frontends."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal, TypeAlias, TypeVar

from graphprune.core.axes import length
from graphprune.core.effect import Dims, Effect
from graphprune.core.errors import AxisError, named_line
from graphprune.core.graph import Op, Value
from graphprune.rules.notation import Signature, parse
from graphprune.rules.site import Site, said, shapes

RuleFunction: TypeAlias = "Callable[[Site], str | list[Dims]]"
Does: TypeAlias = Literal[
    "add", "subtract", "multiply", "divide", "join", "stack", "copy", "move", "cut", "look up",
    "direct",
]  # fmt: skip
F = TypeVar("F", bound=RuleFunction)

_OURS = "graphprune."


@dataclass(frozen=True, slots=True)
class Stated:
    """What is stated beside a rule, since no signature can tell it.

    Attributes:
        linear: Whether what the signature contracts is multiplied and summed, as in a product of
            matrices; not so for distances and attention.
        activated: Whether an activation follows inside the operation, or more.
        view: Whether the results are the first operand's elements, in its memory (`reshape` and
            `contiguous`: as a rule; `dropout`: in inference).
        elementwise: Whether each element of a result depends on the elements at its own place.
        does: What it does with its operands, if it is one of these: `"add"`, `"subtract"`,
            `"multiply"` or `"divide"` them, `"join"` them along a dimension, `"stack"` them along
            a new one, `"copy"` the first (its type may change), `"move"` the first's elements to
            other places, `"cut"` a part of a dimension off the first, `"look up"` the rows of the
            first that the second names, `"direct"` the lengths that are the second along the first
            (weight normalisation).
        norm: Whether it normalises, and then multiplies by a gain that it is given.
        statistics: Operands of a norm that hold the stored mean and variance.
        random: Whether its results are drawn, or can be: two runs differ.
        blank: Whether its results are left as memory was.
        recurrent: Whether it carries states from step to step, through weights of its own.
        partial: Whether its rule tells results by their shapes, so that some may be left out.
    """

    linear: bool = True
    activated: bool = False
    view: bool = False
    elementwise: bool = False
    does: Does | None = None
    norm: bool = False
    statistics: tuple[int, int] | None = None
    random: bool = False
    blank: bool = False
    recurrent: bool = False
    partial: bool = False


NOTHING = Stated(linear=False)
"""What is stated of an operation without a rule."""


@dataclass(frozen=True, slots=True)
class Rule:
    """A rule, the letters of its signature that the operation mixes or fixes, and what is stated.

    Attributes:
        run: What evaluates the operation where its frontend cannot; see `axis_rule`.
    """

    function: RuleFunction
    mixes: str = ""
    locks: str = ""
    stated: Stated = Stated()
    run: Callable[..., Any] | None = None

    @property
    def ours(self) -> bool:
        """Whether the rule comes with the library."""
        return self.function.__module__.startswith(_OURS)


_RULES: dict[str, Rule] = {}
_LOCKED: dict[str, str] = {}


def axis_rule(
    *types: str,
    mixes: str = "",
    locks: str = "",
    linear: bool = True,
    activated: bool = False,
    view: bool = False,
    elementwise: bool = False,
    does: Does | None = None,
    norm: bool = False,
    statistics: tuple[int, int] | None = None,
    random: bool = False,
    blank: bool = False,
    recurrent: bool = False,
    partial: bool = False,
    run: Callable[..., Any] | None = None,
) -> Callable[[F], F]:
    """Register the rule for operation types.

    Whatever the library must know of an operation follows from its rule's signature or is stated
    here: what it contracts with which weight is compensated and scored, whoever's it is.

    Args:
        types: Operation types, of either frontend: `"aten.conv2d"`, `"Conv"`; `"mylib.scale"` for
            one from `torch.library`, `"my.domain::Scale"` for one of an ONNX domain of one's own.
            The in-place form of an ATen operation goes by the same type.
        mixes: Letters of the signature along which results depend on each other, so that
            removal changes what remains (normalisation, softmax).
        locks: Letters of the signature whose length the operation fixes.
        linear: See `Stated`, as for all that follow but the last.
        activated: An activation follows inside the operation.
        view: The results are the first operand's elements, in its memory.
        elementwise: Each element depends on the elements at its own place.
        does: What it does with its operands, if that is one of a few things.
        norm: It normalises, and then multiplies by a gain.
        statistics: Operands of a norm that hold the stored mean and variance.
        random: Two runs differ.
        blank: The results are left as memory was.
        recurrent: It carries states from step to step.
        partial: The rule tells results by their shapes: some in the middle may be left out.
        run: Evaluates an ONNX operation that ONNX Runtime does not know: called with the tensor
            operands (None for those left out), and the attributes as keywords; gives a tensor, or
            a sequence of them.

    The decorated function takes a `Site` and returns either a signature
    (see `graphprune.rules.notation`) or the dimensions of every result.

    Raises:
        AxisError: A type has a rule already.

    Example::

        @axis_rule("my.scale")
        def scale(op: Site) -> str:
            return "n c ..., c -> n c ..."
    """
    stated = Stated(
        linear=linear,
        activated=activated,
        view=view,
        elementwise=elementwise,
        does=does,
        norm=norm,
        statistics=statistics,
        random=random,
        blank=blank,
        recurrent=recurrent,
        partial=partial,
    )

    def register(function: F) -> F:
        for name in types:
            if name in _RULES:
                raise AxisError(f"{name} has a rule already: {_RULES[name].function.__name__}")
            _RULES[name] = Rule(function, mixes, locks, stated, run)
        return function

    return register


def locked(why: str, *types: str, run: Callable[..., Any] | None = None) -> None:
    """Register operations whose axes are locked on purpose.

    They are known, unlike operations without a rule: nothing of theirs can go, or the analysis
    of it would gain nothing.

    Args:
        why: The reason, in words.
        *types: Operation types, as for `axis_rule`.
        run: What evaluates them, as for `axis_rule`.

    Raises:
        AxisError: A type has a rule already.
    """

    @axis_rule(*types, run=run)
    def lock_all(op: Site) -> list[Dims]:
        return op.opaque(f"{why}: {op.op.type}")

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


def stated(op: Op) -> Stated:
    """What is stated beside an operation's rule."""
    rule = _RULES.get(op.type)
    return NOTHING if rule is None else rule.stated


def is_partial(type_: str) -> bool:
    """Whether results in the middle may be left out of operations of a type."""
    rule = _RULES.get(type_)
    return rule is not None and rule.stated.partial


def evaluation(type_: str) -> Callable[..., Any] | None:
    """What evaluates operations of a type where their frontend cannot, if a rule brings it."""
    rule = _RULES.get(type_)
    return None if rule is None else rule.run


def infer(op: Op, dims: Mapping[Value, Dims], strict: bool = False) -> tuple[list[Dims], Effect]:
    """Apply the rule of one operation.

    Args:
        op: The operation.
        dims: The dimensions of its operands.
        strict: Complain instead of locking.

    Returns:
        The dimensions of every result, and the operation's effect. An operation without a
        rule, or to whose shapes a rule of the library does not fit, is locked: it costs
        prunability only.

    Raises:
        AxisError: A rule from outside the library is wrong; with `strict`, any rule is, or there
            is none. The message names the operation, the signature, the shapes and the cause.
    """
    site = Site(op, dims)
    rule = _RULES.get(op.type)
    if rule is None:
        if strict:
            raise AxisError(f"{op.type} at {op.name} has no rule")
        return site.opaque(f"unknown operation {op.type}"), site.effect
    try:
        return applied(rule, site), site.effect
    except AxisError as error:
        if strict or not rule.ours:
            raise
        return site.opaque(str(error)), Effect()


def applied(rule: Rule, site: Site) -> list[Dims]:
    """The dimensions of every result by a rule.

    Raises:
        AxisError: The rule is wrong, or does not fit the operation.
    """
    op = site.op
    try:
        site.text = rule.function.__name__
        found = rule.function(site)
        if isinstance(found, str):
            site.text = found
            found = site.whole(_parsed(found, site), rule.mixes, rule.locks)
        site.finish()
    except AxisError:
        raise
    except Exception as error:  # whatever a rule trips over is a fault of the rule
        what = f"fails on the shapes {shapes(op)}: {named_line(error)}"
        raise AxisError(said(op, site.text, what)) from error
    _fits(found, site)
    return found


def _parsed(text: str, site: Site) -> Signature:
    try:
        return parse(text)
    except AxisError as error:
        raise AxisError(site.misfit(text, str(error))) from error


def _fits(found: Any, site: Site) -> None:
    """Complain of what is no list of dimensions for every result."""
    op = site.op
    behind = f"on the shapes {shapes(op)}"
    if not isinstance(found, Sequence):
        what = f"must return a signature or a list of dimensions, not {found!r}, {behind}"
        raise AxisError(said(op, site.text, what))
    if len(found) < len(op.outputs):
        what = f"gives {len(found)} of {len(op.outputs)} results {behind}"
        raise AxisError(said(op, site.text, what))
    for number, (dims, value) in enumerate(zip(found, op.outputs, strict=False)):
        shape = tuple(length(dim) for dim in dims)
        if shape != value.shape:
            what = f"gives result {number} the shape {list(shape)}, not {list(value.shape)},"
            raise AxisError(said(op, site.text, f"{what} {behind}"))

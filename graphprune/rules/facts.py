"""facts: what is known of an operation, whichever frontend it came from.

Everything here follows from the signature of the operation's rule, or is stated beside it
(`graphprune.rules.registry.Stated`): an operation of one's own is known as well as a built-in one.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from itertools import combinations
from math import prod

import torch

from graphprune.core.axes import atom
from graphprune.core.effect import Dims
from graphprune.core.errors import AxisError
from graphprune.core.graph import Op, Value
from graphprune.rules.notation import Pattern, Term
from graphprune.rules.registry import _RULES, Rule, applied, stated
from graphprune.rules.site import Bound, Site

_ONE = "1"


@dataclass(frozen=True)
class Reading:
    """Operands of `y = W x + b`.

    Attributes:
        source: x.
        weight: W.
        bias: b, or None.
        channel: The dimension of x that is summed over.
        inner: The dimension of W that it meets.
        output: The dimension of y that holds the outputs.
        groups: Groups of a grouped convolution.
        product: Whether both operands may be computed, as in q kᵀ.
        windows: Whether W has dimensions behind the first two.
        ends: Whether y is the operation's result, with no activation behind it.
        pointwise: Whether each place of y is read from the same place of x alone.
        bias_at: The operand that b is or, where there is none, could be; None where it cannot.
    """

    source: Value
    weight: Value
    bias: Value | None
    channel: int
    inner: int
    output: int
    groups: int = 1
    product: bool = False
    windows: bool = False
    ends: bool = True
    pointwise: bool = False
    bias_at: int | None = None


@dataclass(frozen=True)
class Scaling:
    """Operands of `y = s x + t`, element by element, where s and t are stored.

    Attributes:
        source: x.
        place: Which operand x is.
        channel: The dimension of y along which s and t vary, from the front; None where they are
            numbers.
    """

    source: Value
    place: int
    channel: int | None


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


@dataclass(frozen=True, slots=True)
class Found:
    """What applying an operation's rule to its shapes told; it does not hold the operation.

    Attributes:
        rule: The rule that was applied.
        operands: The operands that it was applied to.
        fits: Whether the rule fits them.
        products: Signatures that say which operands are multiplied and summed.
        nonlinear: Why they cannot be read as such, where the rule says so.
        text: The signature that the rule gave, or the name of its function.
    """

    rule: Rule | None
    operands: tuple[Value | None, ...]
    fits: bool = False
    products: tuple[Bound, ...] = ()
    nonlinear: str | None = None
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
    return Found(rule, operands, True, tuple(site.products), site.nonlinear, site.text)


# --- products -----------------------------------------------------------------------------------


def products(op: Op) -> list[Product]:
    """Every pair of operands that an operation multiplies and sums.

    Recurrent layers multiply their states too: the results that show them stand for those.
    """
    if not stated(op).linear:
        return []
    return [product for bound in found(op).products for product in _pairs(bound)]


def _pairs(bound: Bound) -> Iterator[Product]:
    for one, other in _contracting(bound):
        first, second = bound.operands[one], bound.operands[other]
        assert first is not None and second is not None
        patterns = bound.signature.inputs
        letters = (_letters(patterns[one], first), _letters(patterns[other], second))
        sizes = dict(bound.sizes)
        for value, held in zip((first, second), letters, strict=True):
            for size, names in zip(value.shape, held, strict=True):
                if len(names) == 1:
                    sizes.setdefault(names[0], size)
        shared = _names(patterns[one]) & _names(patterns[other]) & bound.signature.contracted
        yield Product(first, second, *letters, sizes, shared)


def _contracting(bound: Bound) -> Iterator[tuple[int, int]]:
    """Pairs of operands that share a letter which no result holds."""
    patterns = bound.signature.inputs
    given = [i for i, value in enumerate(bound.operands) if value is not None]
    for one, other in combinations(given, 2):
        shared = _names(patterns[one]) & _names(patterns[other])
        if shared & bound.signature.contracted:
            yield _ordered(bound, one, other)


def _ordered(bound: Bound, one: int, other: int) -> tuple[int, int]:
    """What is read, and the weight it is read through: the one with fewer samples and places."""
    patterns = bound.signature.inputs
    runs = _runs(patterns[one]), _runs(patterns[other])
    if runs[0] != runs[1]:
        return (one, other) if runs[0] > runs[1] else (other, one)
    first = bound.operands[one]
    swapped = runs[0] != _STAR and first is not None and first.is_weight
    return (other, one) if swapped else (one, other)


_STAR = 1


def _runs(pattern: Pattern) -> int:
    """How freely an operand is read: over all samples, over places, or as it is."""
    kinds = {term.kind for term in pattern}
    return 2 if "ellipsis" in kinds else _STAR if "star" in kinds else 0


def _names(pattern: Pattern) -> frozenset[str]:
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


# --- linear readings ----------------------------------------------------------------------------


def reading(op: Op) -> Reading | str | None:
    """What a linear operation reads; a reason where it cannot be told, None for any other."""
    known = stated(op)
    if not known.linear or known.recurrent:
        return None
    told = found(op)
    if len(told.products) != 1:
        return None
    read = _read(told.products[0], ends=not known.activated)
    return told.nonlinear if read is not None and told.nonlinear else read


def recurrent(op: Op) -> list[Reading]:
    """How a recurrent layer reads its input and, where its result shows them, its own states.

    The states of the layer are its result; only those of the step before are read.
    """
    if not stated(op).recurrent or found(op).nonlinear:
        return []
    reads = [_read(bound, ends=False) for bound in found(op).products if bound.whole]
    return [read for read in reads if isinstance(read, Reading)]


def _read(bound: Bound, ends: bool) -> Reading | str | None:
    pairs = list(_contracting(bound))
    if not pairs:
        return None
    (x_at, w_at), *others = pairs
    x, weight = bound.operands[x_at], bound.operands[w_at]
    assert x is not None and weight is not None
    if others:
        held = [v for v in bound.operands if v is not None and v.kind == "parameter"]
        return "it multiplies several operands" if held else None
    patterns = bound.signature.inputs
    x_pattern, w_pattern = patterns[x_at], patterns[w_at]
    shared = _names(x_pattern) & _names(w_pattern) & bound.signature.contracted
    symmetric = _runs(x_pattern) == _runs(w_pattern) != _STAR
    product = symmetric and len(patterns) == len(pairs[0])
    if len(weight.shape) < 2 or (symmetric and not weight.is_weight and not product):
        return None
    if len(shared) > 1:
        return "it sums over several dimensions at once" if weight.is_weight else None
    (letter,) = shared
    where = _weight_layout(w_pattern, letter, bound)
    if where is None:
        return "its weight holds several matrices" if weight.is_weight else None
    inner, groups, kept = where
    channel, output = _at(x_pattern, letter), _at(bound.signature.outputs[0], kept[-1])
    if channel is None or output is None:
        return "its weight holds several matrices"
    more = [i for i, v in enumerate(bound.operands) if v is not None and i not in (x_at, w_at)]
    biases = [i for i in more if _vector(patterns[i]) == kept]
    if not bound.whole or len(more) > len(biases) or len(biases) > 1:
        return "something else is added to it"
    bias = bound.operands[biases[0]] if biases else None
    windows = _runs(w_pattern) == _STAR
    taken = (x_at, w_at)
    bias_at = biases[0] if biases else _bias_at(bound, taken, kept)
    return Reading(
        x, weight, bias, channel, inner, output, groups, product=product, windows=windows,
        ends=ends, pointwise=_runs(x_pattern) > _STAR, bias_at=bias_at,
    )  # fmt: skip


def _bias_at(bound: Bound, taken: tuple[int, int], kept: tuple[str, ...]) -> int | None:
    """Where a bias could be given that is not: its pattern ends with the letters of the outputs."""
    for place, pattern in enumerate(bound.signature.inputs):
        absent = place >= len(bound.operands) or bound.operands[place] is None
        if place not in taken and absent and pattern and pattern[-1].names == kept:
            return place
    return None


def _weight_layout(
    pattern: Pattern, letter: str, bound: Bound
) -> tuple[int, int, tuple[str, ...]] | None:
    """Which of a weight's first two dimensions is summed over, in how many groups; and the others'.

    None where the weight is no `outputs x channels` or `channels x outputs`, with taps behind.
    """
    first = [term for term in pattern if term.kind != "ellipsis"]
    if len(first) < 2 or any(term.kind not in ("name", "product") for term in first[:2]):
        return None
    if any(term.kind != "star" for term in first[2:]):
        return None
    inner = 0 if letter in first[0].names else 1
    channel, kept = first[inner], first[1 - inner]
    lead = first[0].names[:-1]  # of a grouped convolution
    if channel.names[-1] != letter or (inner == 1 and len(channel.names) > 1):
        return None
    if not lead:
        return inner, 1, kept.names
    groups = prod(bound.sizes.get(name, 1) for name in lead)
    return inner, groups, kept.names if inner else (*lead, *kept.names)


def _at(pattern: Pattern, letter: str) -> int | None:
    """The dimension that holds a letter as its innermost factor, from the end if it is behind."""
    runs = [i for i, term in enumerate(pattern) if term.kind in ("ellipsis", "star")]
    for number, term in enumerate(pattern):
        if term.kind in ("name", "product") and term.names[-1] == letter:
            return number if runs and number < runs[0] else number - len(pattern)
    return None


def _vector(pattern: Pattern) -> tuple[str, ...]:
    """The letters of the only dimension of an operand that is longer than one."""
    long: list[Term] = [term for term in pattern if term.kind != "one"]
    return long[0].names if len(long) == 1 and long[0].kind in ("name", "product") else ()


def folded(weight: torch.Tensor, inner: int, groups: int) -> torch.Tensor:
    """A weight as `groups x outputs x channels x taps`.

    Args:
        weight: The weight.
        inner: Its dimension that holds the channels.
        groups: Groups of a grouped convolution.
    """
    weight = weight.reshape(groups, -1, *weight.shape[1:])
    if inner == 0:
        weight = weight.transpose(1, 2)
    return weight.flatten(3) if weight.dim() > 3 else weight.unsqueeze(-1)


def output_channel(op: Op, dims: int) -> int:
    """The dimension of a linear operation's result, of so many, that holds its outputs."""
    read = reading(op)
    return (read.output if isinstance(read, Reading) else -1) % dims


# --- norms --------------------------------------------------------------------------------------


def is_norm(op: Op) -> bool:
    """Whether an operation normalises, and then multiplies by a gain that it is given."""
    return stated(op).norm


def norm_channel(op: Op) -> int | None:
    """The dimension of a norm's operand that its gains belong to, from the end if last."""
    if not stated(op).norm or not found(op).products:
        return None
    x, *others = found(op).products[0].signature.inputs
    if not others:
        return None
    gain = _vector(others[0])
    return _at(x, gain[-1]) if gain else None


def gain(op: Op) -> Value | None:
    """What a norm multiplies by, where that is a vector of parameters."""
    if not stated(op).norm:
        return None
    vectors = (v for v in op.inputs[1:] if v is not None and v.kind == "parameter")
    return next((v for v in vectors if len(v.shape) == 1), None)


def affine(op: Op) -> tuple[int, int | None, int] | None:
    """Where a norm takes its gain and its offset, and the dimension of its result that they are of.

    None where it takes no gain, or one of several dimensions.
    """
    found, at = gain(op), norm_channel(op)
    if found is None or at is None or len(op.outputs[0].shape) != len(op.inputs[0].shape):  # type: ignore[union-attr]
        return None
    place = op.inputs.index(found)
    more = [i for i, v in enumerate(op.inputs) if i > place and v is not None]
    offset = more[0] if more and more[0] == place + 1 else None
    return place, offset, at % len(op.outputs[0].shape)


def is_batch_norm(op: Op) -> bool:
    """Whether an operation normalises by statistics that the model has stored.

    Its operands are then x, gain, offset, mean and variance.
    """
    held = stated(op).statistics
    if held is None or len(op.outputs) != 1:
        return False
    own = any(op.attrs.get(name) for name in ("training", "training_mode", "use_input_stats"))
    return not own and all(v is not None and v.is_weight for v in (op.inputs[i] for i in held))


def epsilon(op: Op) -> float:
    """What a batch norm adds to the variance."""
    return float(op.attrs["eps"] if "eps" in op.attrs else op.attrs["epsilon"])


# --- scales and shifts --------------------------------------------------------------------------

_AFFINE = ("add", "multiply", "subtract", "divide")


def scaling(op: Op, stored: Callable[[Value], bool] | None = None) -> Scaling | None:
    """What an operation multiplies by stored numbers and adds stored numbers to, if that is all.

    A batch norm with stored statistics does, and so do sums and products with one computed operand.
    A number that is an attribute counts as stored. Whether a quotient has x above the line is told
    by its numbers, not here.

    Args:
        op: The operation.
        stored: Whether a value follows from what is stored; weights alone where not given.
    """
    if is_batch_norm(op):
        x = op.inputs[0]
        at = norm_channel(op)
        return None if x is None or at is None else Scaling(x, 0, at % len(x.shape))
    if stated(op).does not in _AFFINE or len(op.outputs) != 1:
        return None
    known = stored or (lambda value: value.is_weight)
    computed = [i for i, v in enumerate(op.inputs) if v is not None and not known(v)]
    y = op.outputs[0]
    if len(computed) != 1 or "float" not in y.dtype:
        return None
    x = op.inputs[computed[0]]
    if x is None or x.shape != y.shape or x.dtype != y.dtype:
        return None
    varied: set[int] = set()
    for place, value in enumerate(op.inputs):
        if value is not None and place != computed[0]:
            first = len(y.shape) - len(value.shape)
            varied |= {first + i for i, size in enumerate(value.shape) if size > 1}
    if len(varied) > 1:
        return None
    return Scaling(x, computed[0], varied.pop() if varied else None)


# --- what is stated -----------------------------------------------------------------------------


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
    return stated(op).view or stated(op).does == "move"


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

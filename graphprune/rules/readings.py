"""readings: the operands of y = W x + b, where an operation is linear."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from math import prod

import torch

from graphprune.core.effect import Encoding
from graphprune.core.graph import Op, Value
from graphprune.rules.facts import Found, found
from graphprune.rules.notation import Pattern
from graphprune.rules.products import (
    WINDOWED,
    contracting,
    freedom,
    letters_of,
    only_letters,
    place_of,
    products,
)
from graphprune.rules.registry import stated
from graphprune.rules.site import Bound


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
        encodings: How the integers of x, W and b stand for numbers, where they are integers.
        factors: By what W x is multiplied, and b.
        joined: Whether W x meets another operand within the operation, which is no bias.
        beside: Of weights that hold several matrices, the dimension of x that holds as many parts,
            each of which is read by its own; None where all read the same.
        stack: The dimension of such a W that holds the matrices.
        runs: What says where the rows of x end that each matrix reads; None where all rows are
            read by each, or by the one that stands beside.
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
    encodings: Mapping[Value, Encoding] = field(default_factory=dict)
    factors: tuple[float, float] = (1.0, 1.0)
    joined: bool = False
    beside: int | None = None
    stack: int | None = None
    runs: Value | None = None

    @property
    def plain(self) -> str:
        """Why y is not what W, x and b are as they stand, or nothing."""
        if self.joined:
            return "something else is added to it"
        if self.encodings:
            return "its weight holds integers"
        return "" if self.factors == (1.0, 1.0) else "it multiplies by a factor"


def reading(op: Op) -> Reading | str | None:
    """What a linear operation reads; a reason where it cannot be told, None for any other.

    Where its numbers are not what operands hold, but what their integers stand for, or multiples of
    them, that is the reason: `encoded_reading` tells of these too.
    """
    read = encoded_reading(op)
    return read.plain or read if isinstance(read, Reading) else read


def encoded_reading(op: Op) -> Reading | str | None:
    """As `reading`, with how operands stand for numbers."""
    known = stated(op)
    if not known.linear:
        return None
    told = found(op)
    if known.recurrent:  # `recurrent` and `stacked` tell the rest
        return told.nonlinear or None
    if len(told.products) != 1:
        return None
    read = _read(told, told.products[0], ends=not known.activated and not told.made)
    return told.nonlinear if read is not None and told.nonlinear else read


def recurrent(op: Op) -> list[Reading]:
    """How a recurrent layer reads its input and, where its result shows them, its own states.

    The states of the layer are its result; only those of the step before are read.
    """
    if not stated(op).recurrent or found(op).nonlinear:
        return []
    told = found(op)
    reads = [_read(told, bound, ends=False) for bound in told.products if bound.whole]
    return [read for read in reads if isinstance(read, Reading)]


def stacked(op: Op) -> list[Reading]:
    """As `recurrent`, for layers whose weights hold directions ahead of outputs and channels."""
    if not stated(op).recurrent or found(op).nonlinear:
        return []
    told, out = found(op), []
    for bound in told.products:
        x, weight = bound.operands[:2]
        if bound.whole and x is not None and weight is not None and len(weight.shape) == 3:
            sides = bound.signature.inputs[:2]
            first, *places = (term.names for term in sides[1])
            inner = 1 + next(
                at for at, names in enumerate(places) if bound.signature.contracted & {*names}
            )
            beside = [at for at, term in enumerate(sides[0]) if term.names == first]
            read = Reading(
                x, weight, None, len(x.shape) - 1, inner, -1, ends=False,
                encodings=_encodings(told, (x, weight)), beside=beside[0] if beside else None,
            )  # fmt: skip
            out.append(read)
    return out


def of_several(op: Op) -> Reading | None:
    """How an operation reads x through a weight that holds several matrices, as experts' do.

    Each of them reads its own part of x, that beside it or its own run of rows; or all read x. What
    is added to the product, or multiplied with it, meets it place by place.
    """
    if not stated(op).linear or stated(op).recurrent or found(op).nonlinear:
        return None
    told = found(op)
    held = [p for p in products(op) if len(p.weight.shape) == 3 and len(p.contracted) == 1]
    held = [p for p in held if "int" not in p.x.dtype]
    if len(held) != 1 or told.encodings or not told.products[0].whole:
        return None
    (read,), signature = held, told.products[0].signature
    runs = None if told.runs is None else op.inputs[told.runs]
    taken, bound = (read.x, read.weight, runs, None), told.products[0]
    given = zip(bound.operands, signature.inputs, strict=False)
    others = [pattern for value, pattern in given if value not in taken]
    if told.factors != (1.0, 1.0) or not all(_fits(pattern, bound) for pattern in others):
        return None
    if any(len(names) != 1 for names in read.weight_letters):
        return None
    (summed,), letters = read.contracted, [name for (name,) in read.weight_letters]
    shared = [letter for names in read.x_letters for letter in names]
    if runs is not None:
        stacks = [letter for letter in letters if letter in signature.contracted - {summed}]
    else:
        beside = [letter for letter in letters if letter in shared and letter != summed]
        stacks = beside or [letter for letter in letters if letter != summed][:1]
    if len(stacks) != 1 or (summed,) not in read.x_letters:
        return None
    at = read.x_letters.index((stacks[0],)) if (stacks[0],) in read.x_letters else None
    return Reading(
        read.x, read.weight, None, read.x_letters.index((summed,)), letters.index(summed), -1,
        ends=False, joined=bool(others), beside=at, stack=letters.index(stacks[0]), runs=runs,
    )  # fmt: skip


def _encodings(told: Found, values: Sequence[Value | None]) -> dict[Value, Encoding]:
    """How the integers of some operands stand for numbers."""
    held = {told.operands[place]: how for place, how in told.encodings.items()}
    return {value: held[value] for value in values if value is not None and value in held}


def _read(told: Found, bound: Bound, ends: bool) -> Reading | str | None:
    pairs = list(contracting(bound))
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
    shared = letters_of(x_pattern) & letters_of(w_pattern) & bound.signature.contracted
    symmetric = freedom(x_pattern) == freedom(w_pattern) != WINDOWED
    steps = {value for how in (*told.encodings.values(), *told.made.values()) for value in how.held}
    rest = [i for i in range(len(patterns)) if i not in pairs[0] and not _is_in(bound, i, steps)]
    product = symmetric and (not rest or not weight.is_weight)
    if len(weight.shape) < 2:
        return None
    if len(shared) > 1:
        return "it sums over several dimensions at once" if weight.is_weight else None
    (letter,) = shared
    where = _weight_layout(w_pattern, letter, bound)
    if where is None:
        return "its weight holds several matrices" if weight.is_weight else None
    inner, groups, kept = where
    channel, output = place_of(x_pattern, letter), place_of(bound.signature.outputs[0], kept[-1])
    if channel is None or output is None:
        return "its weight holds several matrices"
    more = [i for i in rest if i < len(bound.operands) and bound.operands[i] is not None]
    biases = [i for i in more if only_letters(patterns[i]) == kept]
    joined = len(more) > 1 or len(more) > len(biases)
    if not bound.whole or (joined and not all(_fits(patterns[i], bound) for i in more)):
        return "something else is added to it"
    biases = [] if joined else biases
    ignored = told.factors[1] == 0.0
    bias = bound.operands[biases[0]] if biases and not ignored else None
    windows = freedom(w_pattern) == WINDOWED
    taken = (x_at, w_at)
    bias_at = biases[0] if biases else _bias_at(bound, taken, kept)
    bias_at = None if ignored else bias_at
    factors = (told.factors[0], 1.0) if ignored else told.factors
    return Reading(
        x, weight, bias, channel, inner, output, groups, product=product, windows=windows,
        ends=ends and not joined, pointwise=freedom(x_pattern) > WINDOWED, bias_at=bias_at,
        encodings=_encodings(told, (x, weight, bias)), factors=factors, joined=joined,
    )  # fmt: skip


def _fits(pattern: Pattern, bound: Bound) -> bool:
    """Whether an operand meets the result place by place."""
    places = {term.kind for term in pattern} <= {"name", "product", "one", "ellipsis"}
    return places and letters_of(pattern) <= letters_of(bound.signature.outputs[0])


def _is_in(bound: Bound, place: int, values: Collection[Value]) -> bool:
    return place < len(bound.operands) and bound.operands[place] in values


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

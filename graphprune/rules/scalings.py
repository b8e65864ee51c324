"""scalings: norms, and y = s x + t with numbers that are stored."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from graphprune.core.graph import Op, Value
from graphprune.rules.facts import found
from graphprune.rules.products import only_letters, place_of
from graphprune.rules.registry import stated


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


def directed(op: Op) -> int | None:
    """The dimension with a length for each index, where an operation is `g * v / |v|`.

    Its operands are then v and g.

    Returns:
        The dimension of v, -1 where there is one length for all; None for other operations.
    """
    if stated(op).does != "direct":
        return None
    return int(op.attrs.get("dim", 0))


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
    gain = only_letters(others[0])
    return place_of(x, gain[-1]) if gain else None


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

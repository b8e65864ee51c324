"""linear: how an operation reads a value through a weight, whichever frontend it came from."""

from __future__ import annotations

from dataclasses import dataclass

import torch

from graphprune.core.graph import Op, Value

_CONVOLUTIONS = ("aten.conv1d", "aten.conv2d", "aten.conv3d", "aten.convolution", "Conv")
_TRANSPOSED = (
    "aten.conv_transpose1d",
    "aten.conv_transpose2d",
    "aten.conv_transpose3d",
    "ConvTranspose",
)
_FUSED_CONV, _FUSED_MATMUL = "com.microsoft::FusedConv", "com.microsoft::FusedMatMul"
_PRODUCTS = {"aten.matmul": (0, 1), "aten.mm": (0, 1), "aten.addmm": (1, 2), "MatMul": (0, 1)}
_RECURRENT = {"aten.lstm": 2, "aten.gru": 1, "aten.rnn_tanh": 1, "aten.rnn_relu": 1}
_BATCH_NORMS = ("aten.batch_norm", "BatchNormalization")


@dataclass(frozen=True)
class Reading:
    """Operands of `y = W x + b`.

    Attributes:
        source: x.
        weight: W, or None where the operation has none.
        bias: b, or None.
        channel: The dimension of x that is summed over.
        inner: The dimension of W that it meets.
        output: The dimension of y that holds the outputs.
        groups: Groups of a grouped convolution.
        product: Whether both operands may be computed, as in q kᵀ.
        windows: Whether W has dimensions behind the first two.
        ends: Whether y is the operation's result, with no activation behind it.
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


def reading(op: Op) -> Reading | str | None:
    """What a linear operation reads; a reason where it cannot be told, None for any other."""
    if op.type == _FUSED_CONV:
        if len(op.inputs) > 3 and op.inputs[3] is not None:
            return "something else is added to it"
        groups = int(op.attrs.get("group", 1))
        return _of(op, 0, 1, 2, 1, 1, 1, groups=groups, windows=True, ends=False)
    if op.type in _CONVOLUTIONS + _TRANSPOSED:
        transposed = op.type in _TRANSPOSED or bool(op.attrs.get("transposed"))
        groups = int(op.attrs.get("groups", op.attrs.get("group", 1)))
        return _of(op, 0, 1, 2, 1, 0 if transposed else 1, 1, groups=groups, windows=True)
    if op.type == "aten.linear":
        return _of(op, 0, 1, 2, -1, 1, -1)
    if op.type in ("Gemm", "com.microsoft::FusedGemm"):
        return _gemm(op)
    if op.type == _FUSED_MATMUL:
        if op.attrs.get("transA") or op.attrs.get("transBatchB"):
            return "its input is transposed"
        return _of(op, 0, 1, None, -1, 1 if op.attrs.get("transB") else 0, -1, product=True)
    if op.type in _PRODUCTS:
        at, other = _PRODUCTS[op.type]
        left = op.inputs[at]
        if left is not None and left.is_weight:
            return _of(op, other, at, None, -2, 1, -2, product=True)
        return _of(op, at, other, 0 if op.type == "aten.addmm" else None, -1, 0, -1, product=True)
    return None


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
    found = reading(op)
    return (found.output if isinstance(found, Reading) else -1) % dims


def recurrent(op: Op) -> list[Reading]:
    """How a recurrent layer reads its input and, where its result shows them, its own states.

    The states of the layer are its result; only those of the step before are read.
    """
    first = 1 + _RECURRENT.get(op.type, 0)
    biased, layers = op.attrs.get("has_biases"), op.attrs.get("num_layers")
    if first == 1 or not isinstance(layers, int) or len(op.inputs) < first + (4 if biased else 2):
        return []
    states, own = op.inputs[1], op.inputs[first + 1]
    gates = {"aten.lstm": 4, "aten.gru": 3}.get(op.type, 1)
    if states is None or own is None or states.shape[-1] * gates != own.shape[0]:
        return []  # projected states
    sides = 2 if op.attrs.get("bidirectional") else 1
    per = 4 if biased else 2
    out: list[Reading] = []
    for at in range(first, first + sides * per, per):
        b = op.inputs[at + 2] if biased else None
        source, weight = op.inputs[0], op.inputs[at]
        if source is not None and weight is not None:
            out.append(Reading(source, weight, b, -1, 1, -1, ends=False))
    if sides == layers == 1:
        b = op.inputs[first + 3] if biased else None
        out.append(Reading(op.outputs[0], own, b, -1, 1, -1, ends=False))
    return out


def _gemm(op: Op) -> Reading | str | None:
    if op.attrs.get("transA"):
        return "its input is transposed"
    if op.attrs.get("alpha", 1.0) != 1.0 or op.attrs.get("beta", 1.0) != 1.0:
        return "it multiplies by a factor"
    return _of(op, 0, 1, 2, -1, 1 if op.attrs.get("transB") else 0, -1, ends=op.type == "Gemm")


def _of(
    op: Op,
    source: int,
    weight: int,
    bias: int | None,
    channel: int,
    inner: int,
    output: int,
    *,
    groups: int = 1,
    product: bool = False,
    windows: bool = False,
    ends: bool = True,
) -> Reading | None:
    x, w = op.inputs[source], op.inputs[weight]
    if x is None or w is None:
        return None
    b = op.inputs[bias] if bias is not None and len(op.inputs) > bias else None
    return Reading(x, w, b, channel, inner, output, groups, product, windows, ends)


def is_batch_norm(op: Op) -> bool:
    """Whether an operation normalises by statistics that the model has stored.

    Its operands are then x, gain, offset, mean and variance.
    """
    if op.type not in _BATCH_NORMS or len(op.outputs) != 1:
        return False
    training = op.attrs.get("training") or op.attrs.get("training_mode")
    return not training and all(v is not None and v.is_weight for v in op.inputs[3:5])


def epsilon(op: Op) -> float:
    """What a batch norm adds to the variance."""
    return float(op.attrs["eps"] if "eps" in op.attrs else op.attrs["epsilon"])

"""Packed sequences (`torch.nn.utils.rnn`), whose sizes depend on the lengths of the sequences.

They are captured as operations of their own, with the sizes that the example inputs have: PyTorch's
operations tell no sizes where lengths have no values. Each runs as PyTorch's does.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.library import custom_op
from torch.nn.utils.rnn import PackedSequence
from torch.utils._python_dispatch import _disable_current_modes

_FUNCTIONS = torch._C._VariableFunctions
Example = Callable[[Tensor], "Tensor | None"]
Traced = tuple[Any, list[tuple[Tensor, Tensor]]]


@custom_op("graphprune::pack_padded_sequence", mutates_args=())
def pack(
    x: Tensor, lengths: Tensor, batch_first: bool, elements: int, steps: int
) -> tuple[Tensor, Tensor]:
    """`torch._pack_padded_sequence`, which makes so many rows and steps."""
    return _packed(x, lengths, batch_first, elements, steps)


@pack.register_fake
def _(
    x: Tensor, lengths: Tensor, batch_first: bool, elements: int, steps: int
) -> tuple[Tensor, Tensor]:
    return x.new_empty(elements, *x.shape[2:]), x.new_empty(steps, dtype=torch.int64)


@custom_op("graphprune::pad_packed_sequence", mutates_args=())
def pad(
    data: Tensor,
    batch_sizes: Tensor,
    batch_first: bool,
    padding_value: float,
    total_length: int,
    sequences: int,
    steps: int,
) -> tuple[Tensor, Tensor]:
    """`torch._pad_packed_sequence`, which makes so many sequences of so many steps."""
    return _padded(data, batch_sizes, batch_first, padding_value, total_length, sequences, steps)


@pad.register_fake
def _(
    data: Tensor,
    batch_sizes: Tensor,
    batch_first: bool,
    padding_value: float,
    total_length: int,
    sequences: int,
    steps: int,
) -> tuple[Tensor, Tensor]:
    lead = (sequences, steps) if batch_first else (steps, sequences)
    return data.new_empty(*lead, *data.shape[1:]), data.new_empty(sequences, dtype=torch.int64)


@custom_op("graphprune::packed_recurrent", mutates_args=())
def recurrent(
    kind: str,
    data: Tensor,
    batch_sizes: Tensor,
    hx: Sequence[Tensor],
    params: Sequence[Tensor],
    has_biases: bool,
    num_layers: int,
    bidirectional: bool,
) -> list[Tensor]:
    """An LSTM, GRU or RNN over packed sequences, in eval mode."""
    found = _recurrent(kind, data, batch_sizes, hx, params, has_biases, num_layers, bidirectional)
    return [tensor.clone() for tensor in found]


@recurrent.register_fake
def _(
    kind: str,
    data: Tensor,
    batch_sizes: Tensor,
    hx: Sequence[Tensor],
    params: Sequence[Tensor],
    has_biases: bool,
    num_layers: int,
    bidirectional: bool,
) -> list[Tensor]:
    width = hx[0].shape[-1] * (2 if bidirectional else 1)
    return [data.new_empty(len(data), width), *(torch.empty_like(state) for state in hx)]


def _packed(x: Tensor, lengths: Tensor, batch_first: bool, *_: int) -> tuple[Tensor, Tensor]:
    return _FUNCTIONS._pack_padded_sequence(x, lengths.cpu(), batch_first)


def _padded(
    data: Tensor, batch_sizes: Tensor, batch_first: bool, value: float, total: int, *_: int
) -> tuple[Tensor, Tensor]:
    return _FUNCTIONS._pad_packed_sequence(data, batch_sizes, batch_first, value, total)


def _recurrent(
    kind: str,
    data: Tensor,
    batch_sizes: Tensor,
    hx: Sequence[Tensor],
    params: Sequence[Tensor],
    has_biases: bool,
    num_layers: int,
    bidirectional: bool,
) -> Sequence[Tensor]:
    states = list(hx) if kind == "lstm" else hx[0]
    options = has_biases, num_layers, 0.0, False, bidirectional
    found: Sequence[Tensor] = getattr(_FUNCTIONS, kind)(
        data, batch_sizes, states, list(params), *options
    )
    return found


EAGER = {
    torch.ops.graphprune.pack_padded_sequence.default: _packed,
    torch.ops.graphprune.pad_packed_sequence.default: _padded,
    torch.ops.graphprune.packed_recurrent.default: _recurrent,
}
"""How each runs where gradients are to pass, which custom operations do not let through."""


def traced(func: Any, args: Any, kwargs: Any, example: Example) -> Traced | None:
    """What a function of packed sequences makes of tensors without values.

    Args:
        func: The function.
        args: Its positional arguments.
        kwargs: Its keyword arguments.
        example: The values of a tensor for the example inputs, where they are known.

    Returns:
        Its result, and tensors with values that are known from now on; None for another function.
    """
    name = getattr(func, "__name__", "")
    if name == "_pack_padded_sequence":
        x, lengths, batch_first = args
        values = example(lengths)
        with _disable_current_modes():
            given = [x.shape[1 if batch_first else 0]] * len(lengths)
            counts = given if values is None else [int(n) for n in values]
            known = torch.tensor([sum(n > i for n in counts) for i in range(max(counts))])
        found = pack(x, lengths, batch_first, sum(counts), max(counts))
        return found, [(found[1], known)]
    if name == "_pad_packed_sequence":
        data, batch_sizes, batch_first, value, total = args
        sizes = example(batch_sizes)
        if sizes is None:
            return None
        with _disable_current_modes():
            sequences, steps = int(sizes[0]), max(len(sizes), total)
        return pad(data, batch_sizes, batch_first, value, total, sequences, steps), []
    if name in ("lstm", "gru", "rnn_tanh", "rnn_relu") and _takes_packed(args):
        data, batch_sizes, hx, params, biases, layers, _, _, both = args[:9]
        states = list(hx) if isinstance(hx, tuple | list) else [hx]
        made = recurrent(name, data, batch_sizes, states, list(params), biases, layers, both)
        return tuple(made), []
    return None


def is_packed(held: object) -> bool:
    """Whether a value is a packed sequence."""
    return isinstance(held, PackedSequence)


def _takes_packed(args: Any) -> bool:
    return isinstance(args[1], Tensor) and isinstance(args[3], tuple | list)

"""Recurrent layers as single operations."""

from __future__ import annotations

from graphprune.core.axes import Dim, concat, length, split, unify
from graphprune.core.effect import Dims
from graphprune.rules.registry import axis_rule
from graphprune.rules.site import Site

_GATES = {"lstm": 4, "gru": 3, "rnn_tanh": 1, "rnn_relu": 1, "lstm_cell": 4, "gru_cell": 3}


def gated(op: Site, dim: Dim, gates: int) -> Dim:
    """The hidden axis of a weight that stacks one block for each gate."""
    parts = split(dim, (gates, length(dim) // gates))
    if parts is None:
        op.lock([dim], "gates do not divide")
        return dim
    op.lock([parts[0]], "gates")
    return parts[1]


@axis_rule("graphprune.pack_padded_sequence")
def pack(op: Site) -> list[Dims]:
    """Steps of several sequences under each other, and how many sequences have each step."""
    x = op.dims()
    op.lock([*x[:2], *op.dims(1)], "sequences packed")
    made = [op.fresh(i, "sequences packed") for i in range(2)]
    return [[made[0][0], *x[2:]], made[1]]


@axis_rule("graphprune.pad_packed_sequence")
def pad(op: Site) -> list[Dims]:
    """The reverse: sequences side by side, and their lengths."""
    op.lock([op.dims()[0], *op.dims(1)], "sequences packed")
    made = [op.fresh(i, "sequences packed") for i in range(2)]
    return [[*made[0][:2], *op.dims()[1:]], made[1]]


@axis_rule("graphprune.packed_recurrent", recurrent=True)
def packed_recurrent(op: Site) -> list[Dims]:
    """A recurrent layer over packed sequences, the steps of which are one dimension."""
    kind = op.attr("kind")
    op.lock([op.dims()[0], *op.dims(1)], "sequences packed")
    states = 2 if kind == "lstm" else 1
    return _layers(op, kind, 2, op.dims()[:1], op.dims(2)[1], states)


@axis_rule("aten.lstm", "aten.gru", "aten.rnn_tanh", "aten.rnn_relu", recurrent=True)
def recurrent(op: Site) -> str | list[Dims]:
    """Stacked and bidirectional LSTM, GRU and RNN; all layers share the hidden axis.

    They share it because the initial and final states of all layers are one tensor.
    """
    kind = op.op.type.removeprefix("aten.")
    states = 2 if kind == "lstm" else 1
    if not isinstance(op.attr("num_layers"), int):
        return op.opaque("packed sequences")
    x = op.dims()
    steps, batch = (x[1], x[0]) if op.attr("batch_first", default=False) else (x[0], x[1])
    op.lock([steps], "steps in order")
    return _layers(op, kind, 1, x[:-1], batch, states)


def _layers(
    op: Site, kind: str, start: int, lead: list[Dim], batch: Dim, states: int
) -> list[Dims]:
    """Layers and directions, whose states stand from operand `start` on and weights behind."""
    directions = 2 if op.attr("bidirectional") else 1
    x, first = op.dims(), op.dims(start)
    hidden, cell = first[-1], op.dims(start + states - 1)[-1]
    for state in (op.dims(i + start) for i in range(states)):
        op.lock([state[0]], "layers")
        unify(batch, state[1])
    projected = kind == "lstm" and op.shape(start)[-1] != op.shape(start + 1)[-1]
    if projected:  # of equal lengths, PyTorch would take it for an LSTM without projection
        op.lock([cell], "longer than the projection")
    else:
        unify(hidden, cell)
    per = (4 if op.attr("has_biases") else 2) + int(projected)
    fed, at = x[-1], start + states
    for _ in range(op.attr("num_layers")):
        for _ in range(directions):
            _cell(op, range(at, at + per), _GATES[kind], (fed, hidden, cell), lead)
            at += per
        fed = concat([hidden] * directions)
    _state(op, start + states, per, directions, projected)
    outputs = [[*lead, fed], first]
    return [*outputs, op.dims(start + 1)] if kind == "lstm" else outputs


def _state(op: Site, first: int, per: int, directions: int, projected: bool) -> None:
    """State which weights of a stacked layer read what.

    The results of all steps are the states of the uppermost layer, and what it reads of those
    below is not to be seen: its final states stand for both, which the states of one direction
    and layer alone do exactly.
    """
    inputs, results = op.op.inputs, op.op.outputs
    layers = op.attr("num_layers")
    biased = bool(op.attr("has_biases"))
    alone = directions == layers == 1
    if projected:
        op.nonlinear = "its states are projected"
    for layer in range(layers):
        for side in range(directions):
            at = first + (layer * directions + side) * per
            bias = inputs[at + 2] if biased else None
            own = inputs[at + 3] if biased else None
            below = inputs[0] if layer == 0 else results[0]
            exact = layer == 0
            op.state("... i, g i, g -> ... g", (below, inputs[at], bias), whole=exact)
            states = results[0] if directions == 1 else results[1]
            op.state("... i, g i, g -> ... g", (states, inputs[at + 1], own), whole=alone)
            if projected:
                cells = results[2] if len(results) > 2 else None
                op.state("... c, i c -> ... i", (cells, inputs[at + per - 1]), whole=False)


def _cell(
    op: Site, weights: range, gates: int, dims: tuple[Dim, Dim, Dim], lead: list[Dim]
) -> None:
    fed, hidden, cell = dims
    for i in weights:
        weight = op.dims(i)
        if op.rank(i) == 2 and i == weights[-1] and len(weights) % 2:  # the projection
            unify(weight[0], hidden)
            unify(weight[1], cell)
        else:
            unify(gated(op, weight[0], gates), cell)
        if op.rank(i) == 2 and i < weights[0] + 2:
            taken = (fed, hidden)[i - weights[0]]
            unify(weight[1], taken)
            op.contract(taken)
        if op.rank(i) == 2:
            op.effect.macs.append((*lead, *weight))


@axis_rule(
    "aten.lstm_cell",
    "aten.gru_cell",
    "aten.rnn_tanh_cell",
    "aten.rnn_relu_cell",
    recurrent=True,
)
def cell(op: Site) -> list[Dims]:
    """One step of a recurrent layer."""
    kind = op.op.type.removeprefix("aten.").removesuffix("_cell")
    states = 2 if kind == "lstm" else 1
    x = op.dims()
    hidden = op.broadcast([[*x[:-1], ()], *(op.dims(i + 1) for i in range(states))])
    weights = range(1 + states, len(op.op.inputs))
    present = [i for i in weights if op.has(i)]
    for i in present:
        unify(gated(op, op.dims(i)[0], _GATES[kind]), hidden[-1])
    biases = [op.op.inputs[i] for i in present[2:]] or [None, None]
    for at, (i, taken) in enumerate(zip(present[:2], (x[-1], hidden[-1]), strict=True)):
        unify(op.dims(i)[1], taken)
        op.state("... i, g i, g -> ... g", (op.op.inputs[at], op.op.inputs[i], biases[at]))
        op.contract(taken)
        op.effect.macs.append((*x[:-1], *op.dims(i)))
    return [hidden] * len(op.op.outputs)


def state_both_sides(op: Site, weight: str) -> None:
    """State what a recurrent operation of ONNX reads: its input, and its own states.

    Args:
        op: The operation; its first operands are the input and the weights of either.
        weight: The pattern of these weights.
    """
    op.state(f"... i, {weight} -> ... g", (op.op.inputs[0], op.op.inputs[1]))
    shown = next((value for value in op.op.outputs if len(value.shape) > 2), None)
    read = "... i"
    if op.shape(1)[0] > 1 and shown is not None:  # each direction reads its own states
        steps = "s " if len(shown.shape) == 4 else ""
        read = f"n {steps}d i" if op.attr("layout", default=0) else f"{steps}d n i"
    op.state(f"{read}, {weight} -> ... g", (shown, op.op.inputs[2]))


@axis_rule("LSTM", "GRU", "RNN", recurrent=True, partial=True)
def onnx_recurrent(op: Site) -> list[Dims]:
    """ONNX: the gates of all directions stand in one weight; both share the hidden axis.

    They share it because the results of both directions are one tensor.
    """
    gates = _GATES.get(op.op.type.lower(), 1)
    x, weight, recurrence = op.dims(0), op.dims(1), op.dims(2)
    batch_first = bool(op.attr("layout", default=0))
    batch = x[0] if batch_first else x[1]
    op.lock([x[1] if batch_first else x[0]], "steps in order")
    op.lock([op.dims(i)[0] for i in (1, 2, 3, 7) if op.has(i)], "directions")
    hidden = gated(op, weight[1], gates)
    unify(hidden, gated(op, recurrence[1], gates))
    unify(hidden, recurrence[2])
    unify(weight[2], x[2])
    for i, blocks in ((3, 2 * gates), (7, 3)):  # biases; the peepholes of an LSTM
        if op.has(i):
            unify(hidden, gated(op, op.dims(i)[1], blocks))
    state: Dims = [batch, weight[0], hidden] if batch_first else [weight[0], batch, hidden]
    op.broadcast([state, *(op.dims(i) for i in (5, 6) if op.has(i))])
    if op.has(4):
        unify(batch, op.dims(4)[0])
    state_both_sides(op, "d g i")
    op.contract(x[2], hidden)
    op.effect.macs = [(*x[:2], *weight), (*x[:2], *recurrence)]
    op.resize("hidden_size", hidden)
    steps: Dims = [*x[:2], *state[1:]] if batch_first else [x[0], *state]
    return [steps if len(value.shape) == 4 else state for value in op.op.outputs]

"""The neutral graph that both frontends lift to: values, and the operations between them."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any, Literal, Protocol

Kind = Literal["input", "parameter", "buffer", "constant", "result"]


@dataclass(slots=True, eq=False)
class Value:
    """A tensor of the graph.

    Attributes:
        name: Unique name; for parameters and buffers the name the user knows it by.
        shape: Its shape when the model was captured.
        dtype: Element type, as the frontend names it (`float32`, `int64`, …).
        kind: What it is: a model input, a weight, or the result of an operation.
        aliases: Further names of the same tensor (tied weights).
        tensor: The weights themselves, for parameters, buffers and constants.
    """

    name: str
    shape: tuple[int, ...]
    dtype: str
    kind: Kind = "result"
    aliases: tuple[str, ...] = ()
    tensor: Any = None

    @property
    def is_weight(self) -> bool:
        """Whether the value is stored in the model rather than computed or given."""
        return self.kind in ("parameter", "buffer", "constant")

    @property
    def is_readable(self) -> bool:
        """Whether the elements of a weight can be read: PyTorch has their type."""
        return self.tensor is not None

    def __repr__(self) -> str:
        return f"{self.name}{list(self.shape)}"


@dataclass(slots=True, eq=False)
class Op:
    """One operation.

    Attributes:
        name: Unique name.
        type: What it does: `aten.conv2d`, `Conv`, …
        inputs: Tensor operands in the order of the operator's signature; None where optional
            ones are absent. A list of tensors contributes each of its elements.
        outputs: Results.
        attrs: Everything else, by the names of the operator's signature.
        module: Path of the innermost module that ran it (torch), else "".
        source: The frontend's own node.
        unread: Numbers of the results that nothing reads.
        known: What rules have found of it, kept so that it is found once.
    """

    name: str
    type: str
    inputs: list[Value | None]
    outputs: list[Value]
    attrs: dict[str, Any] = field(default_factory=dict)
    module: str = ""
    source: Any = None
    unread: frozenset[int] = frozenset()
    known: Any = field(default=None, init=False)

    def __repr__(self) -> str:
        return f"{self.outputs} = {self.type}({self.inputs})"


class Evaluator(Protocol):
    """What runs the operations of a graph: `graphprune.engine.engine.Engine` says what each is."""

    @property
    def evaluate(self) -> Callable[..., list[Any]]:
        """Runs one operation: `(op, operands, changed attributes, dtype) -> results`."""

    @property
    def dtype(self) -> Any:
        """Floating-point type in which proofs are computed."""

    @property
    def tolerance(self) -> float:
        """Largest relative difference that rounding may cause in that type."""

    @property
    def coarse(self) -> bool:
        """Whether rounding must not add up from operation to operation."""

    @property
    def exact(self) -> Any:
        """A finer type, in which what seems to differ is run once more; None without any."""

    @property
    def differentiable(self) -> bool:
        """Whether gradients pass through `evaluate`."""

    @property
    def native(self) -> Any:
        """Floating-point type in which data are observed; None: as stored."""

    @property
    def random(self) -> Callable[[Op], bool]:
        """Whether an operation may give other results each time."""

    @property
    def writes(self) -> Callable[[Op], bool]:
        """Whether an operation writes its result to where its first operand was."""

    @property
    def lacks(self) -> Callable[[Op], str]:
        """Why an operation cannot be run at all, or nothing."""


@dataclass(slots=True, eq=False)
class Graph:
    """A network: operations in execution order.

    Attributes:
        ops: The operations, in an order in which they can run.
        inputs: What the caller provides.
        outputs: What the network returns.
        weights: Parameters, buffers and constants, by name.
        training: Further operations that only training mode reaches (auxiliary heads). They
            take part in the analysis, not in the cost.
        fixed: Weights that must keep their shapes, with the reason.
        fixed_dims: Single dimensions of weights that must keep their length, with the reason.
        outside: Elements of the model's parameters that no operation reaches: they cost, and stay.
        written: Weights that operations write to; each run writes to copies of its own.
        engine: What runs its operations.
        name: What the model is called.
    """

    ops: list[Op]
    inputs: list[Value]
    outputs: list[Value]
    weights: dict[str, Value]
    engine: Evaluator
    training: list[Op] = field(default_factory=list)
    fixed: dict[Value, str] = field(default_factory=dict)
    fixed_dims: dict[tuple[Value, int], str] = field(default_factory=dict)
    outside: int = 0
    name: str = ""
    written: set[Value] = field(default_factory=set)

    def parameters(self) -> Iterator[Value]:
        """The trainable weights, each tied tensor once."""
        return (value for value in self.weights.values() if value.kind == "parameter")

    def derived(self) -> dict[Value, tuple[Value, ...]]:
        """The results that are computed from weights alone, each with the weights it comes of."""
        out: dict[Value, tuple[Value, ...]] = {}
        for op in self.ops:
            read = [v for v in op.inputs if v is not None]
            if all(v.is_weight or v in out for v in read):
                parts = [w for v in read for w in ((v,) if v.is_weight else out[v])]
                out.update(dict.fromkeys(op.outputs, tuple(dict.fromkeys(parts))))
        return out

    def idle(self) -> set[Op]:
        """Operations that nothing depends on: code drops what they make (attention weights)."""
        read, found = set(self.outputs), set()
        for op in reversed(self.ops):
            if read.isdisjoint(op.outputs) and not self.engine.writes(op):
                found.add(op)
            else:
                read.update(value for value in op.inputs if value is not None)
        return found

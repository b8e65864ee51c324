"""What a guided pass finds, and the calls that a captured graph was made by."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from torch import nn

from graphprune.core.axes import Dim
from graphprune.core.graph import Graph, Op, Value
from graphprune.core.relations import Mismatch
from graphprune.frontends.torch.tagged import Place


@dataclass
class Call:
    """One call of a module, in terms of the graph's values.

    Attributes:
        args: Positional and keyword arguments; each tensor replaced by its `Value`.
        result: What it returned, likewise.
        counters: How often each torch function had been called when it returned.
        outer: The arguments before its hooks saw them and the result after, where it has hooks.
    """

    args: tuple[Any, Any]
    result: Any
    counters: Counter[Any]
    outer: tuple[Any, Any] | None = None


@dataclass
class Findings:
    """What a guided pass has found.

    Attributes:
        edits: New values of attributes: (module path, attribute, index in a tuple or None).
        offenders: Paths of modules whose code cannot express the new widths, with the reason.
        mismatches: Lengths that the code took for others.
        ones: Dimensions of which a single index remains, by the attribute that says how many.
        numbers: Attributes of operations that the code gave another number, and that number.
        calls: Every call of each module, by path.
    """

    edits: dict[Place, int] = field(default_factory=dict)
    offenders: dict[str, str] = field(default_factory=dict)
    mismatches: list[Mismatch] = field(default_factory=list)
    ones: dict[Place, Dim] = field(default_factory=dict)
    numbers: dict[Op, tuple[str, float]] = field(default_factory=dict)
    calls: dict[str, list[Call]] = field(default_factory=lambda: defaultdict(list))


def calls(ops: Sequence[Op]) -> dict[Any, list[list[Op]]]:
    """The operations of each key, those of one call together: no other call's lie between."""
    found: dict[Any, list[list[Op]]] = defaultdict(list)
    last = None
    for op in ops:
        key = op.source.meta.get("torch_fn")
        if key == last:
            found[key][-1].append(op)
        else:
            found[key].append([op])
        last = key
    return found


def constants(ops: Sequence[Op]) -> dict[Op, float]:
    """The numbers that code made tensors of (`torch.tensor(8)`)."""
    return {
        op: op.inputs[0].tensor.item()
        for op in ops
        if op.type.startswith("aten.lift_fresh")
        and op.inputs[0] is not None
        and op.inputs[0].is_weight
        and op.inputs[0].tensor.numel() == 1
    }


def weights_by_id(graph: Graph, model: nn.Module) -> dict[int, Value]:
    """The graph's values of a model's tensors."""
    live = {
        **dict(model.named_buffers(remove_duplicate=False)),
        **dict(model.named_parameters(remove_duplicate=False)),
    }
    return {id(live[name]): v for name, v in graph.weights.items() if name in live}

"""A graph made ready to be run many times with gradients."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from types import MappingProxyType
from typing import Any, TypeAlias

import torch

from graphprune.core.axes import Axis
from graphprune.core.graph import Op, Value
from graphprune.core.groups import Dependencies
from graphprune.core.indices import Indices
from graphprune.engine.engine import Engine, Evaluate
from graphprune.engine.gradients import with_gradients
from graphprune.engine.run import Attrs, LastUses, Run, Watch, resized
from graphprune.engine.tensors import as_dtype

Instead: TypeAlias = "Callable[[Sequence[torch.Tensor | None]], torch.Tensor]"
"""The one result of an operation, of its operands."""


class Trial:
    """Runs a graph with gradients, in single precision.

    Args:
        deps: The analysis.
        batch: Number of samples.
        keep: Indices that stay, for each axis that loses some.
        weights: Tensors of all weights in place of the original's.
        instead: What runs some operations of one result, in place of the graph's engine.

    Attributes:
        outputs: The results of a run: the graph's outputs, but for weights.
        writes: Whether an operation writes to its first operand. Who watches may put a copy into
            its place.
    """

    def __init__(
        self,
        deps: Dependencies,
        batch: int,
        keep: Mapping[Axis, Indices] | None = None,
        weights: Mapping[Value, torch.Tensor] | None = None,
        instead: Mapping[Op, Instead] = MappingProxyType({}),
    ) -> None:
        self._graph = deps.source
        engine = self._graph.engine
        self.writes = engine.writes
        self._engine = Engine(
            _replaced(with_gradients(engine.evaluate), instead),
            differentiable=True,
            random=engine.random,
            writes=engine.writes,
            lacks=engine.lacks,
        )
        self._attrs: Attrs = resized(deps, keep or {}, batch)
        seen = {v for op in self._graph.ops for v in [*op.inputs, *op.outputs]}
        self.outputs = [v for v in self._graph.outputs if v in seen and not v.is_weight]
        self._uses = LastUses(self._graph.ops, set(self.outputs))
        self._weights = weights or {
            value: as_dtype(value.tensor.detach(), torch.float32)
            for value in self._graph.weights.values()
        }

    def run(self, inputs: Sequence[torch.Tensor], watch: Watch | None = None) -> list[torch.Tensor]:
        """The results; `watch` sees every operation with its operands."""
        given = dict(zip(self._graph.inputs, inputs, strict=True))
        run = Run(
            self._graph,
            self._weights.__getitem__,
            [given],
            self._attrs,
            uses=self._uses,
            gradients=True,
            engine=self._engine,
        )
        for _ in run.steps(watch):
            pass
        return [run.values(value)[0] for value in self.outputs]


def _replaced(evaluate: Evaluate, instead: Mapping[Op, Instead]) -> Evaluate:
    """What runs operations, but for some that are run otherwise."""
    if not instead:
        return evaluate

    def run(op: Op, operands: Sequence[torch.Tensor | None], *rest: Any) -> list[torch.Tensor]:
        own = instead.get(op)
        return evaluate(op, operands, *rest) if own is None else [own(operands)]

    return run

"""lift: an ONNX model as a neutral graph.

1. Operations that shapes and integer constants determine are left out: their values are known.
2. Operands that are arguments rather than data (a Reshape's shape, a Slice's bounds, axes) become
   attributes, under the names of the operator's schema; so do attributes left at their default.
3. Each use of a constant gets its own copy, unless it is truly one weight used twice.
4. Branches that are always taken, and sequences and optionals of known elements, are opened first.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch

from graphprune.core.batch import Batch
from graphprune.core.errors import LiftError
from graphprune.core.graph import Graph, Value
from graphprune.frontends.onnx.branches import taken
from graphprune.frontends.onnx.model import Source
from graphprune.frontends.onnx.own import untyped
from graphprune.frontends.onnx.reader import Reader
from graphprune.frontends.onnx.sizes import Traces, Types, choose, inputs_for
from graphprune.frontends.onnx.tensors import (
    Array,
    as_torch,
)
from graphprune.frontends.onnx.unpacked import unpacked
from graphprune.frontends.onnx.whole import observe


@dataclass
class LiftedFile:
    """A lifted model.

    Attributes:
        source: The model as it was read.
        traces: Shapes and known values at two sets of sizes.
        graph: The neutral graph.
        values: Inputs and results of the graph by their names in the file.
        examples: Example inputs that the caller gave.
        warnings: What the caller should know.
    """

    source: Source
    traces: Traces
    graph: Graph
    values: Mapping[str, Value]
    examples: Mapping[str, Array] = field(default_factory=dict)
    warnings: list[str] = field(default_factory=list)

    @property
    def name(self) -> str:
        """What the report calls the model."""
        return self.source.label

    @property
    def inputs(self) -> tuple[tuple[Any, ...], dict[str, Any]] | None:
        """The caller's example inputs, as positional and keyword arguments."""
        if not self.examples:
            return None
        return (), {name: as_torch(item) for name, item in self.examples.items()}

    @property
    def model(self) -> Any:
        """The protobuf."""
        return self.source.model

    @property
    def original(self) -> None:
        """What a part was captured of: files are captured whole."""
        return None

    @property
    def given(self) -> None:
        """Inputs that were adapted before the capture: here they never are."""
        return None

    def replayed(self, batches: Sequence[Batch]) -> Sequence[Batch]:
        """Data as the graph takes it: files are always captured whole."""
        return batches

    def batch(self) -> int:
        """Samples in the inputs that the analysis assumes."""
        first = self.graph.inputs[0].shape if self.graph.inputs else ()
        return first[0] if first else 1

    def flat_inputs(self, seed: int = 0) -> list[torch.Tensor]:
        """Inputs of the sizes that the analysis assumes: the caller's, else random ones."""
        given = inputs_for(self.traces.inputs[0], self.examples, seed)
        tensors = [as_torch(array) for array in given.values()]
        return [tensor for tensor in tensors if tensor is not None]


def lift(source: Source, examples: Mapping[str, Array]) -> LiftedFile:
    """Turn a model into the neutral graph.

    Args:
        source: The model.
        examples: Example inputs by name; they settle the sizes of dynamic dimensions.

    Raises:
        LiftError: The model cannot be analysed; the message names the cause and the way out.
    """
    known = {item.name for item in source.inputs}
    for name in examples:
        if name not in known:
            raise LiftError(f"{source.label} has no input {name!r}: its inputs are {sorted(known)}")

    def observed(sizes: Types, names: list[str]) -> Types | None:
        return observe(source, inputs_for(sizes, examples, 0), names)

    traces = choose(source, examples, observed)
    if (plain := taken(source, traces) or unpacked(source, traces)) is not None:
        return lift(plain, examples)
    for node in source.nodes:
        if why := untyped(node, traces.first.types):
            raise LiftError(f"{source.label}: {why}")
    reader = Reader(source, traces)
    for node in source.nodes:
        if not all(name in traces.first.folded for name in node.output if name):
            reader.read(node)
    reader.finish()
    return LiftedFile(source, traces, reader.graph, reader.values, examples)

"""program: a lifted file, and all that can be done with it."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field, replace
from math import prod
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import torch

from graphprune.core.batch import Batch
from graphprune.core.cuts import Cuts
from graphprune.core.errors import EvaluationError
from graphprune.core.factors import Pair
from graphprune.core.graph import Graph, Op, Value
from graphprune.core.groups import Dependencies
from graphprune.core.program import Expressed, Inputs, Lowered
from graphprune.core.relations import Mismatch
from graphprune.core.rewrites import Draft, Rewrite
from graphprune.costs.latency.backend import Backend
from graphprune.engine.tensors import shapes_of
from graphprune.frontends.backends import backend
from graphprune.frontends.onnx.compare import compare, valid
from graphprune.frontends.onnx.data import read_data
from graphprune.frontends.onnx.execute import forget, has_runtime
from graphprune.frontends.onnx.lift import LiftedFile, lift
from graphprune.frontends.onnx.lower import lower
from graphprune.frontends.onnx.model import read_model
from graphprune.frontends.onnx.notes import annotate
from graphprune.frontends.onnx.rewrites import refuses, rewritten
from graphprune.frontends.onnx.same import apart, apart_on
from graphprune.frontends.onnx.sizes import inputs_for
from graphprune.frontends.onnx.speed import speed
from graphprune.frontends.onnx.split import split, unsplit
from graphprune.frontends.onnx.stored import Lowered as LoweredFile
from graphprune.frontends.onnx.tensors import Array, as_array, as_torch
from graphprune.frontends.onnx.tidy import tidied
from graphprune.frontends.onnx.whole import runner
from graphprune.frontends.onnx.write import write
from graphprune.rules.facts import is_random
from graphprune.rules.scalings import is_batch_norm

_LONG = 256  # numbers of a sample that make it a signal
_WHOLE = 2**29  # bytes of weights up to which the smaller model is also run as a whole
_SLOW_CHECK = (
    "ONNX Runtime is not installed, so the slow reference implementation made the check: "
    "pip install 'graphprune[ort]'"
)


@dataclass
class ExpressedFile:
    """A choice of a file: no code stands behind it, so that it can express any.

    Attributes:
        cuts: The choice.
    """

    cuts: Cuts
    wrong = 0
    offenders: tuple[str, ...] = ()
    mismatches: tuple[Mismatch, ...] = ()
    wishes: tuple[Mismatch, ...] = ()
    guessed: bool | None = None


@dataclass
class FileProgram:
    """A lifted ONNX model.

    Attributes:
        lifted: What the frontend read.
        warnings: What the caller should know.
        assumed: Sizes of the inputs in words, where the caller gave none.
    """

    lifted: LiftedFile
    warnings: list[str] = field(default_factory=list)
    assumed: str = ""

    is_file = True
    alike = False  # no code equates widths in a file
    original = None  # files are captured whole
    given = None

    def __post_init__(self) -> None:
        self.warnings = self.lifted.warnings
        if self.lifted.inputs is None:
            self.assumed = shapes_of(self.flat_inputs())

    @property
    def name(self) -> str:
        """The file's name, or what the model calls itself."""
        return self.lifted.name

    @property
    def graph(self) -> Graph:
        """The neutral graph."""
        return self.lifted.graph

    @property
    def model(self) -> onnx.ModelProto:
        """The protobuf."""
        found: onnx.ModelProto = self.lifted.model
        return found

    @property
    def inputs(self) -> Inputs | None:
        """The caller's example inputs, or None."""
        return self.lifted.inputs

    @property
    def doubt(self) -> str:
        """Why inputs that are made would not stand in for real ones, or nothing."""
        if _bytes(self.graph) > _WHOLE:
            return "its weights are large: pass data or compensate=True"
        if _signals(self.lifted):
            return "noise does not stand in for signals: pass data"
        return ""

    def batch(self) -> int:
        """How many samples the inputs hold that the analysis assumes."""
        return self.lifted.batch()

    def flat_inputs(self, seed: int = 0) -> list[torch.Tensor]:
        """Inputs of the sizes that the analysis assumes: the caller's, else random ones."""
        return self.lifted.flat_inputs(seed)

    def read(self, data: Any, samples: int) -> list[Batch]:
        """The caller's data as batches, by the names of the file's inputs."""
        return read_data(self.lifted.source, data, samples)

    def replayed(self, batches: Sequence[Batch]) -> Sequence[Batch]:
        """The batches themselves: files are captured whole."""
        return batches

    def materialised(self) -> tuple[FileProgram, Sequence[str]]:
        """The file itself: what nodes make of stored numbers alone is known as it stands."""
        return self, []

    def refuses(self, rewrite: Rewrite, draft: Draft, code: bool = True) -> str:
        """Why a rewrite cannot be made of the file, or nothing; a file has no code."""
        return refuses(self.lifted, rewrite, draft)

    def rewritten(self, draft: Draft, deps: Dependencies) -> FileProgram:
        """The lifted copy of the file that computes what a draft says."""
        forget()
        return FileProgram(rewritten(self.lifted, draft), assumed=self.assumed)

    def tidied(self) -> FileProgram | None:
        """The file as onnxslim leaves it; None where that is not installed, or changes nothing."""
        source = tidied(self.lifted.source)
        if source is None:
            return None
        made = replace(lift(source, self.lifted.examples), warnings=self.warnings)
        return FileProgram(made, assumed=self.assumed)

    def express(self, cuts: Cuts, hints: Expressed | None = None) -> ExpressedFile:
        """A file can express any choice."""
        return ExpressedFile(cuts)

    def lower(self, found: Expressed) -> LoweredFile:
        """The smaller file, in memory."""
        return lower(self.lifted, found.cuts)

    def prove(
        self, found: Expressed, lowered: Lowered, seed: int
    ) -> tuple[LoweredFile, float | None]:
        """Run the whole model, unless it is so large that memory would not hold it twice."""
        made = _lowered(lowered)
        if not has_runtime() and _SLOW_CHECK not in self.warnings:
            self.warnings.append(_SLOW_CHECK)
        for op in self.graph.ops:
            if (why := self.graph.engine.lacks(op)) and op.outputs:
                self.warnings.append(f"{why}; the check took its results for granted")
        try:
            if made.size() <= _WHOLE:
                return made, compare(self.lifted, found.cuts, made, seed)
        finally:
            forget()
        valid(made)
        self.warnings.append(
            f"{self.name} is too large to be run as a whole: it was checked operation by "
            "operation, and that it is valid"
        )
        return made, None

    def apart(self, lowered: Lowered, seed: int) -> float | None:
        """Hold a smaller file against this one."""
        made = _lowered(lowered)
        if max(made.size(), self.lifted.source.weight()) > _WHOLE or self._drawn():
            return None
        try:
            return apart(self.lifted, made.proto(), seed)
        finally:
            forget()

    def apart_on(self, lowered: Lowered, batch: Batch, seed: int) -> float | None:
        """Hold a smaller file against this one on inputs of the caller's."""
        made = _lowered(lowered)
        if max(made.size(), self.lifted.source.weight()) > _WHOLE or self._drawn():
            return None
        names = [value.name for value in self.graph.inputs]
        given = {name: as_array(x) for name, x in zip(names, batch.args, strict=True)}
        return apart_on(self.lifted, made.proto(), given, seed)

    def _drawn(self) -> bool:
        """Whether results hang on numbers that are drawn; a dropout in a file drops nothing."""
        return any(is_random(op) and op.type != "Dropout" for op in self.graph.ops)

    def apart_in_training(self, lowered: Lowered) -> None:
        """Nothing: a file has no training mode."""

    def write(
        self, found: Expressed, lowered: Lowered, values: Mapping[Value, torch.Tensor]
    ) -> LoweredFile:
        """The smaller file with new weights in it."""
        forget()
        return lower(self.lifted, found.cuts, {v: as_array(x) for v, x in values.items()})

    def stored(self, lowered: Lowered, values: Collection[Value]) -> dict[Value, torch.Tensor]:
        """The initializers and constants that were written anew."""
        made = _lowered(lowered)
        held = {value: as_torch(x) for value in values if (x := made.written(value)) is not None}
        return {value: tensor for value, tensor in held.items() if tensor is not None}

    def finish(self, found: Expressed, lowered: Lowered, check: bool) -> Any:
        """The smaller model as a protobuf, or as a graphsurgeon graph where one was given."""
        proto = _lowered(lowered).proto()
        if self.lifted.source.kind == "graphsurgeon":
            import onnx_graphsurgeon as gs

            return gs.import_onnx(proto)
        return proto

    def save(self, found: Expressed, lowered: Lowered, path: Path, check: bool) -> None:
        """Write the smaller model, tensor by tensor."""
        write(_lowered(lowered), path)

    def annotate(self, lowered: Lowered, notes: Mapping[str, Any], larger: bool = True) -> None:
        """Write what was done into the smaller file's metadata."""
        most = None if larger else self.lifted.source.weight()
        annotate(_lowered(lowered), notes, most)

    def unsplit(self, layers: Mapping[Value, Op]) -> Mapping[Value, str]:
        """Weights whose node cannot become two, with the reason."""
        return unsplit(self.lifted, layers)

    def split(self, lowered: Lowered, pairs: Sequence[Pair]) -> LoweredFile:
        """The smaller file with two nodes in place of some."""
        return split(self.lifted, _lowered(lowered), pairs)

    def reopened(self, lowered: Lowered) -> tuple[FileProgram, Mapping[str, str]]:
        """The smaller file, lifted anew; some of its weights have new names."""
        made = _lowered(lowered)
        program = FileProgram(lift(read_model(made.proto()), self.lifted.examples))
        known = {name: value.name for value, name in made.names.items()}
        return program, {name: known.get(name, name) for name in program.graph.weights}

    def adopted(self, lowered: Lowered, other: Lowered) -> LoweredFile:
        """The smaller file in place of the one that it was made of."""
        return replace(_lowered(other), edits=_lowered(lowered).edits)

    def equal(self, lowered: Lowered, split: Lowered, seed: int) -> float | None:
        """Hold two files against each other, at both sizes of their inputs."""
        one, other = _lowered(lowered), _lowered(split)
        if max(one.size(), other.size()) > _WHOLE:
            return None
        try:
            return apart(replace(self.lifted, source=read_model(one.proto())), other.proto(), seed)
        finally:
            forget()

    def weighed(self, lowered: Lowered) -> tuple[int, int]:
        """Bytes of the files, external data included."""
        return self.lifted.source.weight(), _lowered(lowered).weight()

    def runnable(self, found: Expressed) -> onnx.ModelProto:
        """The model of a choice."""
        return lower(self.lifted, found.cuts).proto()

    def answers(
        self,
        found: Expressed,
        lowered: Lowered | None,
        chunks: Sequence[Sequence[torch.Tensor]],
    ) -> list[list[torch.Tensor]]:
        """What the file, or the smaller one, returns.

        Raises:
            EvaluationError: It is too large to be run as a whole.
        """
        whole = Cuts(found.cuts.deps, {})
        made = lower(self.lifted, whole) if lowered is None else _lowered(lowered)
        if made.size() > _WHOLE:
            raise EvaluationError(f"{self.name} is too large to be run as a whole")
        run = runner(made.proto())
        names = [value.name for value in self.graph.inputs]
        out: list[list[torch.Tensor]] = []
        for chunk in chunks:
            feeds = {name: as_array(x) for name, x in zip(names, chunk, strict=True)}
            results = [as_torch(x) for x in run(feeds) if isinstance(x, np.ndarray)]
            out.append([x for x in results if x is not None])
        return out

    def example(self, given: Inputs | None = None) -> Inputs:
        """The inputs that the analysis assumes."""
        return (), {name: as_torch(array) for name, array in self.feeds(0).items()}

    def backend(self, name: str) -> Backend:
        """What runs the model where its time counts."""
        return backend(name, is_file=True)

    def speed(self, found: Expressed, lowered: Lowered, seed: int) -> tuple[float, float] | None:
        """Seconds of a run in ONNX Runtime before and after."""
        made = _lowered(lowered)
        if not 0 < made.size() <= _WHOLE:
            return None
        original = lower(self.lifted, Cuts(found.cuts.deps, {}))
        if original.size() > _WHOLE:
            return None
        return speed(original.proto(), made.proto(), self.feeds(seed))

    def feeds(self, seed: int) -> Mapping[str, Array]:
        """Inputs by name, as ONNX Runtime takes them."""
        return inputs_for(self.lifted.traces.inputs[0], self.lifted.examples, seed)


def _lowered(lowered: Lowered) -> LoweredFile:
    assert isinstance(lowered, LoweredFile), "lowered by another program"
    return lowered


def _signals(lifted: LiftedFile) -> bool:
    """Whether inputs are rows of any length or of many numbers, such as sound.

    No file tells their scale. Noise stands in for images, and for short rows of features. With
    what it made of sound, smaller models agreed less with the original than without compensation.
    """
    if any(is_batch_norm(op) for op in lifted.graph.ops):
        return False
    given = {item.name: item.type.tensor_type.shape.dim for item in lifted.source.inputs}
    for value in lifted.graph.inputs:
        if 1 < len(value.shape) < 4 and "float" in value.dtype:
            of_any_length = any(not dim.HasField("dim_value") for dim in given[value.name][1:])
            if of_any_length or prod(value.shape[1:]) >= _LONG:
                return True
    return False


def _bytes(graph: Graph) -> int:
    """Bytes of the parameters in float32."""
    return sum(4 * prod(value.shape) for value in graph.parameters())

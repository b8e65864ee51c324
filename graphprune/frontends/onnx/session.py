"""A plan together with the ONNX model that it was made for."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from math import prod
from pathlib import Path
from typing import Any

import numpy as np
import torch

from graphprune.choice.request import Request
from graphprune.choice.select import Selection
from graphprune.compensation.calibration import Calibration, Options
from graphprune.core.axes import atoms
from graphprune.core.batch import Batch
from graphprune.core.cuts import Cuts, narrow
from graphprune.core.errors import BudgetError, GraphPruneError, LiftError, VerifyError
from graphprune.core.graph import Value
from graphprune.core.groups import Dependencies
from graphprune.core.ledger import timed
from graphprune.core.program import Inputs
from graphprune.core.proof import Verification
from graphprune.core.relations import Ties
from graphprune.frontends.onnx.compare import compare, engine, valid
from graphprune.frontends.onnx.data import examples_of, read_data
from graphprune.frontends.onnx.execute import forget, has_runtime
from graphprune.frontends.onnx.lift import OnnxProgram, lift
from graphprune.frontends.onnx.lower import lower
from graphprune.frontends.onnx.model import Source, read_model
from graphprune.frontends.onnx.sizes import inputs_for
from graphprune.frontends.onnx.speed import speed
from graphprune.frontends.onnx.stored import Lowered
from graphprune.frontends.onnx.tensors import Array, as_array, as_torch
from graphprune.frontends.onnx.write import write
from graphprune.frontends.torch.survey import Survey
from graphprune.importance import Scores
from graphprune.passes.couple import couple
from graphprune.passes.verify import verify as verify_cuts
from graphprune.report.report import Report
from graphprune.rules.facts import is_batch_norm
from graphprune.session import Session

_NAMED = 2  # weights that an error names
_LONG = 256  # numbers of a sample that make it a signal
_WHOLE = 2**29  # bytes of weights up to which the smaller model is also run as a whole


class OnnxSession(Session):
    """A lifted ONNX model, its analysis, and the choice made for it."""

    program: OnnxProgram

    def recalibrated(self, options: Options) -> Session:
        """The same choice, with other statistics."""
        return super().recalibrated(_reading(self.program.source, options)[0])

    def take(self, selection: Selection) -> None:
        """Use a selection; a graph can express any."""
        self.selection = selection
        self.cuts = timed(self.seconds, "narrow", narrow, self.deps, selection.keep)
        self.found = Survey(self.cuts)

    def _explained(self, request: Request, scores: Sequence[Scores], ties: list[Ties]) -> Selection:
        """Select; an error names the largest weights that must stay whole."""
        try:
            return super()._explained(request, scores, ties)
        except BudgetError as error:
            text = "; ".join([str(error), *_whole_weights(self.deps)])
            raise BudgetError(text, closest=error.closest) from None

    def _alike(self) -> bool:
        return False  # no code equates widths in a file

    def runnable(self, smaller: bool) -> Any:
        """The model, or the smaller one as chosen, to be timed."""
        cuts = self.cuts if smaller else narrow(self.deps, {})
        return lower(self.program, cuts).proto()

    def example(self, given: Inputs | None = None) -> Inputs:
        """The inputs to time it on: those that the analysis assumes."""
        program = self.program
        arrays = inputs_for(program.traces.inputs[0], program.examples, 0)
        return (), {name: as_torch(array) for name, array in arrays.items()}

    def finish(self, verify: bool, seed: int, of: str) -> tuple[Any, Report]:
        """The smaller model, of the kind that the caller gave, and what is to be told of it."""
        lowered, report = self._made(verify, seed, of)
        model: Any = timed(self.seconds, "lower", lowered.proto)
        if self.program.source.kind == "graphsurgeon":
            import onnx_graphsurgeon as gs

            model = gs.import_onnx(model)
        return model, report

    def write(self, path: Path, verify: bool, seed: int, of: str) -> Report:
        """Make the smaller model and write it, tensor by tensor."""
        lowered, report = self._made(verify, seed, of)
        written = timed(self.seconds, "write", write, lowered, path)
        report.bytes = (self.program.source.weight(), written)
        return report

    def _made(self, verify: bool, seed: int, of: str) -> tuple[Lowered, Report]:
        lowered = timed(self.seconds, "lower", lower, self.program, self.cuts)
        verification: Verification | None = None
        if verify:
            if not has_runtime():
                self.program.warnings.append(
                    "ONNX Runtime is not installed, so the slow reference implementation made the "
                    "check: pip install 'graphprune[ort]'"
                )
            given = self.program.flat_inputs(seed)
            verification = timed(self.seconds, "verify", _verified, self.cuts, given, seed)
            verification.lowered = timed(self.seconds, "verify", self._compared, lowered, seed)
            forget()
        solved = self._solved()
        if solved:
            lowered = timed(self.seconds, "lower", lower, self.program, self.cuts, solved)
        if verify and self.latency is None and 0 < lowered.size() <= _WHOLE:
            self.latency = timed(self.seconds, "time", self._timed, lowered, seed)
        report = self.report(of)
        report.verification = verification
        report.edits = lowered.edits
        report.bytes = (self.program.source.weight(), lowered.weight())
        return lowered, report

    def _timed(self, lowered: Lowered, seed: int) -> tuple[float, float] | None:
        """Seconds of a run before and after."""
        program = self.program
        given = inputs_for(program.traces.inputs[0], program.examples, seed)
        original = lower(program, narrow(self.deps, {}))
        if original.size() > _WHOLE:
            return None
        return speed(original.proto(), lowered.proto(), given)

    def _solved(self) -> dict[Value, Array]:
        """New weights that make up for what was removed."""
        if self.calibration is None:
            return {}
        found = timed(self.seconds, "compensate", self.calibration.solve, self.cuts)
        forget()
        return {} if found is None else {v: as_array(x) for v, x in found.values.items()}

    def _compared(self, lowered: Lowered, seed: int) -> float | None:
        """Run the whole model, unless it is so large that memory would not hold it twice."""
        if lowered.size() > _WHOLE:
            valid(lowered)
            self.program.warnings.append(
                f"{self.program.name} is too large to be run as a whole: it was checked operation "
                "by operation, and that it is valid"
            )
            return None
        return compare(self.program, self.cuts, lowered, seed)


def _verified(cuts: Cuts, given: list[torch.Tensor], seed: int) -> Verification:
    try:
        return verify_cuts(cuts, given, seed, engine())
    except RuntimeError as error:
        raise VerifyError(
            f"the original model does not run by single operations: {error}; pass example inputs "
            "that it accepts, or verify=False",
            "",
            float("inf"),
        ) from error


def opened(
    model: Any, inputs: Inputs | None, keep: Collection[Any], options: Options | None = None
) -> OnnxSession:
    """Read and analyse a model.

    Args:
        model: A path, a ModelProto or an onnx-graphsurgeon graph.
        inputs: Example inputs, positional and by name; they settle the sizes of dynamic
            dimensions. None where the sizes can be guessed.
        keep: Names of weights or nodes to leave as they are; `*` and `?` match any text.
        options: How the result is to be compensated, if it will be made; with data, if there are.
    """
    patterns = [keep] if isinstance(keep, str) else list(keep)
    for item in patterns:
        if not isinstance(item, str):
            raise GraphPruneError(f"keep: an ONNX model has names, not types such as {item}")
    seconds: dict[str, float] = {}
    source = timed(seconds, "read", read_model, model)
    batches: list[Batch] = []
    if options is not None:
        options, batches = _reading(source, options)
    examples = _examples(inputs, [item.name for item in source.inputs])
    if batches and not examples:
        examples = examples_of(source, batches)
    program = timed(seconds, "lift", lift, source, examples)
    if not any(True for _ in program.graph.parameters()):
        raise LiftError(
            f"{source.label} holds no weights that its operations use: there is nothing to prune"
        )
    deps = timed(seconds, "couple", couple, program.graph, patterns)
    session = OnnxSession(program, deps, seconds)
    session.batches = batches
    if options is not None:
        session.calibration = Calibration(program, deps, options)
        if _bytes(program) > _WHOLE:
            session.calibration.skip("its weights are large: pass data or compensate=True")
        if _signals(program):
            session.calibration.skip("noise does not stand in for signals: pass data")
    return session


def _whole_weights(deps: Dependencies) -> list[str]:
    """The largest weights that nothing can be removed from, and what locks them."""
    free = {group.axis for group in deps.groups}
    sizes = {value: prod(value.shape) for value in deps.source.parameters()}
    out = []
    for value in sorted(sizes, key=lambda v: -sizes[v])[:_NAMED]:
        axes = [axis for dim in deps.dims[value] for axis in atoms(dim)]
        share = sizes[value] / sum(sizes.values())
        if share > 0.1 and not free.intersection(axes):
            reasons = dict.fromkeys(axis.reason for axis in axes if axis.reason)
            why = ", ".join(reasons) or "each index differs"
            out.append(f"{value.name} ({share:.0%} of the parameters) stays whole: {why}")
    return out


def _signals(program: OnnxProgram) -> bool:
    """Whether inputs are rows of any length or of many numbers, such as sound.

    Their scale is told by no file. Noise stands in for images, and for short rows of features. With
    what it made of sound, smaller models agreed less with the original than without compensation.
    """
    if any(is_batch_norm(op) for op in program.graph.ops):
        return False
    given = {item.name: item.type.tensor_type.shape.dim for item in program.source.inputs}
    for value in program.graph.inputs:
        if 1 < len(value.shape) < 4 and "float" in value.dtype:
            of_any_length = any(not dim.HasField("dim_value") for dim in given[value.name][1:])
            if of_any_length or prod(value.shape[1:]) >= _LONG:
                return True
    return False


def _bytes(program: OnnxProgram) -> int:
    """Bytes of the parameters."""
    return sum(4 * prod(value.shape) for value in program.graph.parameters())


def _reading(source: Source, options: Options) -> tuple[Options, list[Batch]]:
    """The options with their data read."""
    if options.data is None:
        return options, []
    batches = read_data(source, options.data, options.samples())
    return options.reading(batches), batches


def _examples(given: Inputs | None, names: list[str]) -> dict[str, Array]:
    """Example inputs by name."""
    args, kwargs = given or ((), {})
    if len(args) > len(names):
        raise LiftError(f"{len(args)} example inputs for the {len(names)} inputs {names}")
    return {name: _array(x) for name, x in (*zip(names, args, strict=False), *kwargs.items())}


def _array(item: Any) -> Array:
    return as_array(item) if isinstance(item, torch.Tensor) else np.asarray(item)

"""compare: the smaller model must be valid, and compute what the narrowed graph computes."""

from __future__ import annotations

import onnx
import torch

from graphprune.core.cuts import Cuts
from graphprune.core.errors import VerifyError
from graphprune.core.graph import Value
from graphprune.engine.perturbed import perturbed
from graphprune.engine.run import final_values, given_inputs
from graphprune.engine.tensors import as_dtype, cut_tensor, difference
from graphprune.frontends.onnx.execute import run_model, runs
from graphprune.frontends.onnx.lift import OnnxProgram
from graphprune.frontends.onnx.lower import lower
from graphprune.frontends.onnx.sizes import inputs_for
from graphprune.frontends.onnx.stored import Lowered
from graphprune.frontends.onnx.tensors import Array, as_array, as_torch

_TOLERANCES = {"float16": 5e-2, "bfloat16": 2e-1}  # relative; rounding through a whole network
_SINGLE = 1e-3
_FEW = 1024  # bytes of a tensor that can be a shape


def compare(program: OnnxProgram, cuts: Cuts, lowered: Lowered, seed: int = 0) -> float:
    """Run the smaller model, weights perturbed as for the check of the graph.

    Returns:
        The largest relative difference between its results and the narrowed graph's.

    Raises:
        VerifyError: It is not valid, does not run, or differs; also where its results have other
            shapes than the original's at the second sizes of dynamic dimensions.
    """
    valid(lowered)
    dtype = program.graph.engine.dtype
    read = perturbed(program.graph, seed, dtype)
    held = _as_stored(program)
    values = {
        value: cut_tensor(
            as_dtype(value.tensor, dtype) if value in held else read(value),
            cuts.weights.get(value, ()),
        )
        for value in program.graph.weights.values()
        if value.tensor is not None
    }
    replaced = {
        value: as_array(tensor.to(value.tensor.dtype))
        for value, tensor in values.items()
        if value not in held
    }
    model = lower(program, cuts, replaced).proto()
    first, second = program.traces.inputs
    given = inputs_for(first, program.examples, seed)
    found = run_model(model, given)
    inputs = given_inputs(program.graph, program.flat_inputs(seed), dtype)
    expected = final_values(program.graph, values.get, inputs, cuts.attrs, dtype)
    worst = 0.0
    for item, array in zip(program.source.model.graph.output, found, strict=True):
        value = program.values.get(item.name)
        if value is None or value not in expected:
            continue
        worst = max(worst, _gap(value, expected[value], array))
    if first != second:
        _other_sizes(program, model, seed)
    return worst


def _as_stored(program: OnnxProgram) -> set[Value]:
    """Weights that keep their elements: constants, and what subgraphs use by its own name."""
    held = {value for value in program.graph.weights.values() if value.kind == "constant"}
    for op in program.graph.ops:
        if op.source is not None:
            inner = op.inputs[len(op.source.proto.input) :]
            held.update(value for value in inner if value is not None)
    return held


def valid(lowered: Lowered) -> None:
    """Check the smaller model by the rules of the format, shapes included.

    Raises:
        VerifyError: It breaks one; the message says which.
    """
    checked = onnx.ModelProto()
    checked.CopyFrom(lowered.frame)
    given = {item.name for item in checked.graph.input}
    for tensor in lowered.tensors:
        if tensor.size <= _FEW:  # of sizes and axes the inference wants the numbers
            checked.graph.initializer.append(tensor.as_proto())
        elif tensor.name not in given:
            checked.graph.input.append(
                onnx.helper.make_tensor_value_info(tensor.name, tensor.elem_type, tensor.shape)
            )
    try:
        onnx.checker.check_model(checked, full_check=True)
    except (onnx.checker.ValidationError, onnx.shape_inference.InferenceError) as error:
        reason = " ".join(str(error).split())[:300]
        raise VerifyError(f"the smaller model is not valid: {reason}", "", float("inf")) from error


def _gap(value: Value, expected: torch.Tensor, found: Array) -> float:
    tensor = as_torch(found)
    if tensor is None:
        return 0.0
    if expected.is_floating_point():
        gap = difference(expected.double(), tensor.double())
    else:
        gap = difference(expected, tensor.to(expected.dtype))
    if gap > _TOLERANCES.get(value.dtype, _SINGLE):
        raise VerifyError(
            f"the smaller model differs from the narrowed graph at output {value.name}: largest "
            f"relative difference {gap:.3g}",
            value.name,
            gap,
        )
    return gap


def _other_sizes(program: OnnxProgram, model: onnx.ModelProto, seed: int) -> None:
    """The smaller model runs at the second sizes, with results of the original's shapes."""
    given = inputs_for(program.traces.inputs[1], program.examples, seed)
    try:
        found = run_model(model, given)
    except VerifyError:
        if not runs(program.source, given):
            return  # nor does the original: these sizes were only a guess
        raise
    for item, array in zip(program.source.model.graph.output, found, strict=True):
        wanted = program.traces.second.shape(item.name)
        if wanted is not None and array.shape != wanted:
            raise VerifyError(
                f"output {item.name} has shape {array.shape} instead of {wanted} at other sizes of "
                "the dynamic dimensions",
                item.name,
                float("inf"),
            )

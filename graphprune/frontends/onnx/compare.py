"""compare: the smaller model must be valid, and compute what the narrowed graph computes."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence

import numpy as np
import onnx
import torch

from graphprune.core.cuts import Cuts
from graphprune.core.errors import VerifyError
from graphprune.core.graph import Evaluator, Value
from graphprune.engine.granted import granted, stand_in
from graphprune.engine.perturbed import perturbed
from graphprune.engine.run import LastUses, Run, given_inputs
from graphprune.engine.tensors import as_dtype, cut_tensor
from graphprune.frontends.onnx.execute import reference_engine
from graphprune.frontends.onnx.kernels import told_apart
from graphprune.frontends.onnx.lift import LiftedFile
from graphprune.frontends.onnx.lower import lower
from graphprune.frontends.onnx.objects import apart, as_fed
from graphprune.frontends.onnx.sizes import inputs_for
from graphprune.frontends.onnx.stored import Lowered
from graphprune.frontends.onnx.tensors import Array, as_array
from graphprune.frontends.onnx.trace import Trace
from graphprune.frontends.onnx.whole import run_model, runs, stop_at_foreign

_TOLERANCES = {"float16": 5e-2, "bfloat16": 2e-1}  # relative; rounding through a whole network
_SINGLE = 1e-3
_DRAWS = 4  # inputs for which rounding is measured
_STEP = 2.0**-20  # by which inputs are moved: some roundings of float32
_MARGIN = 16.0  # times the rounding that was seen: a fault is not of its size
_FEW = 1024  # bytes of a tensor that can be a shape


def compare(lifted: LiftedFile, cuts: Cuts, lowered: Lowered, seed: int = 0) -> float:
    """Run the smaller model, weights perturbed as for the check of the graph.

    Returns:
        The largest relative difference between its results and the narrowed graph's.

    Raises:
        VerifyError: It is not valid, does not run, or differs; also where its results have other
            shapes than the original's at the second sizes of dynamic dimensions.
    """
    valid(lowered)
    dtype = lifted.graph.engine.dtype
    read = perturbed(lifted.graph, seed, dtype)
    held = _as_stored(lifted)
    values = {
        value: cut_tensor(
            as_dtype(value.tensor, dtype) if value in held else read(value),
            cuts.weights.get(value, ()),
        )
        for value in lifted.graph.weights.values()
        if value.is_readable
    }
    replaced = {
        value: as_array(tensor.to(value.tensor.dtype))
        for value, tensor in values.items()
        if value not in held
    }
    model = lower(lifted, cuts, replaced).proto()
    known = _granted(lifted, cuts, lifted.traces.first)
    wanted = _results(lifted, model, known)
    told = _told(lifted, model)
    first, second = lifted.traces.inputs
    given = inputs_for(first, lifted.examples, seed)
    found = run_model(model, given, known)
    expected = _run(lifted, cuts, values, lifted.flat_inputs(seed), wanted)
    worst, tolerance = 0.0, _tolerance(lifted)
    _same_numbers(told, lifted.traces.first, found[len(wanted) :])
    for value, item in zip(wanted, found, strict=False):
        gap = apart(as_fed(expected[value]), item)
        if gap > tolerance:
            rounding = _rounding(lifted, cuts, values, value, seed)
            if _beyond(as_fed(expected[value]), item, rounding):
                raise VerifyError(
                    f"the smaller model differs from the narrowed graph at output {value.name}: "
                    f"largest relative difference {gap:.3g}",
                    value.name,
                    gap,
                )
        else:
            worst = max(worst, gap)
    if first != second:
        _other_sizes(lifted, cuts, model, told, seed)
    return worst


def _tolerance(lifted: LiftedFile) -> float:
    """The largest relative difference that rounding to the coarsest type of a result makes."""
    kinds = {value.dtype for op in lifted.graph.ops for value in op.outputs}
    return max(_TOLERANCES.get(kind, _SINGLE) for kind in kinds)


def _results(lifted: LiftedFile, model: onnx.ModelProto, known: Collection[str]) -> list[Value]:
    """What can be compared of a model: its outputs are these from now on.

    They are the results, or what operations read of which nothing here knows what they give.
    """
    stop_at_foreign(model, known)
    wanted = dict.fromkeys(lifted.graph.outputs)
    for op in lifted.graph.ops:
        if not op.outputs:
            wanted.update((v, None) for v in op.inputs if v is not None and v.kind == "result")
    if len(wanted) != len(model.graph.output) or len(wanted) != len(lifted.graph.outputs):
        made = {name for node in model.graph.node for name in node.output}
        made.update(item.name for item in model.graph.input)
        wanted = {value: None for value in wanted if value.name in made}
        del model.graph.output[:]
        model.graph.output.extend(
            onnx.helper.make_value_info(value.name, onnx.TypeProto()) for value in wanted
        )
    return list(wanted)


def _told(lifted: LiftedFile, model: onnx.ModelProto) -> list[str]:
    """Results that shapes determine; they come behind a model's other outputs from now on."""
    stated = (item.name for item in lifted.source.model.graph.output)
    names = [n for n in stated if n in lifted.traces.first.folded and n not in lifted.values]
    outputs = {item.name: item for item in model.graph.output}
    for name in names:
        item = outputs.get(name) or onnx.helper.make_value_info(name, onnx.TypeProto())
        if name in outputs:
            model.graph.output.remove(item)
        model.graph.output.append(item)
    return names


def _same_numbers(names: Sequence[str], trace: Trace, found: Sequence[object]) -> None:
    for name, array in zip(names, found, strict=True):
        if not np.array_equal(trace.known[name], np.asarray(array)):
            raise VerifyError(
                f"output {name} is {array} instead of {trace.known[name]}", name, float("inf")
            )


def _rounding(
    lifted: LiftedFile,
    cuts: Cuts,
    values: Mapping[Value, torch.Tensor],
    value: Value,
    seed: int,
) -> float:
    """How far apart two evaluations of one graph come at a result, by rounding alone.

    ONNX Runtime in float32 and the reference implementation in float64 run the narrowed graph
    on several inputs; where the latter cannot, ONNX Runtime runs it on inputs moved a little.
    """
    found = [0.0]
    for number in range(_DRAWS):
        given = lifted.flat_inputs(seed + number)
        rough = _run(lifted, cuts, values, given, [value])[value]
        try:
            fine = _run(lifted, cuts, values, given, [value], reference_engine())[value]
        except RuntimeError:
            moved = [_moved(x, number) for x in given]
            fine = _run(lifted, cuts, values, moved, [value])[value]
        if rough.shape == fine.shape and rough.is_floating_point():
            found.append(float((rough.double() - fine.double()).abs().max()))
        elif not torch.equal(rough, fine):  # a label that hangs on rounding
            found.append(float("inf"))
    return max(found)


def _moved(tensor: torch.Tensor, seed: int) -> torch.Tensor:
    if not tensor.is_floating_point():
        return tensor
    generator = torch.Generator().manual_seed(seed)
    noise = torch.rand(tensor.shape, generator=generator) * 2 - 1
    return tensor * (1 + _STEP * noise.to(tensor.dtype))


def _beyond(expected: object, found: object, rounding: float) -> bool:
    """Whether two results differ by more than rounding explains."""
    first, second = np.asarray(expected), np.asarray(found)
    if first.shape != second.shape or first.dtype.kind != "f" or second.dtype.kind != "f":
        return rounding == 0
    return bool((np.abs(first.astype(float) - second.astype(float)) > _MARGIN * rounding).any())


def _granted(lifted: LiftedFile, cuts: Cuts | None, trace: Trace) -> dict[str, Array]:
    """What stands for the results of operations that nothing here runs, by name."""
    out = {}
    for op in lifted.graph.ops:
        for value in op.outputs if lifted.graph.engine.lacks(op) else ():
            shape = trace.shape(value.name)
            if shape is not None:
                whole = stand_in(value.name, shape, value.dtype)
                out[value.name] = as_array(
                    whole if cuts is None else cut_tensor(whole, cuts.kept(value))
                )
    return out


def _as_stored(lifted: LiftedFile) -> set[Value]:
    """Weights that keep their elements: constants, and what subgraphs use by its own name."""
    held = {value for value in lifted.graph.weights.values() if value.kind == "constant"}
    for op in lifted.graph.ops:
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
    told_apart(checked)
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


def _run(
    lifted: LiftedFile,
    cuts: Cuts,
    values: Mapping[Value, torch.Tensor],
    tensors: list[torch.Tensor],
    wanted: Collection[Value],
    engine: Evaluator | None = None,
) -> dict[Value, torch.Tensor]:
    """Values of the narrowed graph, operation by operation."""
    graph = lifted.graph
    engine = engine or graph.engine
    given = given_inputs(graph, tensors, engine.dtype)
    uses = LastUses(graph.ops, set(wanted))
    run = Run(
        graph,
        values.get,
        [given],
        cuts.attrs,
        engine.dtype,
        uses=uses,
        engine=engine,
        granted=granted(engine.dtype, cuts),
    )
    for _ in run.steps():
        pass
    return {value: run.values(value)[0] for value in wanted}


def _other_sizes(
    lifted: LiftedFile, cuts: Cuts, model: onnx.ModelProto, told: Sequence[str], seed: int
) -> None:
    """The smaller model runs at the second sizes, with results of the original's shapes."""
    given = inputs_for(lifted.traces.inputs[1], lifted.examples, seed)
    stated = {item.name for item in lifted.source.model.graph.output}
    try:
        found = run_model(model, given, _granted(lifted, cuts, lifted.traces.second))
    except VerifyError:
        if not runs(lifted.source, given, _granted(lifted, None, lifted.traces.second)):
            return  # nor does the original: these sizes were only a guess
        raise
    _same_numbers(told, lifted.traces.second, found[len(found) - len(told) :])
    for item, array in zip(model.graph.output, found, strict=True):
        wanted = lifted.traces.second.shape(item.name)
        if item.name not in stated or wanted is None or not isinstance(array, np.ndarray):
            continue
        if array.shape != wanted:
            raise VerifyError(
                f"output {item.name} has shape {array.shape} instead of {wanted} at other sizes of "
                "the dynamic dimensions",
                item.name,
                float("inf"),
            )

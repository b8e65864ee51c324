"""Running whole ONNX models: by ONNX Runtime or the reference.

Models that hold operations which neither knows run node by node.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from functools import partial
from types import MappingProxyType
from typing import Any

import onnx
import torch
from onnx import ModelProto, NodeProto, TensorProto, TypeProto, helper
from onnx.reference import ReferenceEvaluator

from graphprune.core.errors import VerifyError
from graphprune.frontends.onnx.copies import without_initializers
from graphprune.frontends.onnx.execute import has_runtime, run_node, session
from graphprune.frontends.onnx.model import Source, captured, ordered
from graphprune.frontends.onnx.objects import as_fed, as_value, type_of
from graphprune.frontends.onnx.own import evaluator, is_own, lacking
from graphprune.frontends.onnx.own import results as own_results
from graphprune.frontends.onnx.precision import in_single
from graphprune.frontends.onnx.reference import REPAIRED
from graphprune.frontends.onnx.tensors import Array, to_proto


def run_model(
    model: ModelProto, feeds: Mapping[str, Array], known: Mapping[str, Array] = MappingProxyType({})
) -> list[Any]:
    """Run a whole model: node by node where it holds operations that no runtime knows.

    Args:
        model: The model.
        feeds: Its inputs, by name.
        known: Results that are given rather than computed.

    Returns:
        Its results; not all of them need be arrays.

    Raises:
        VerifyError: It does not run.
    """
    try:
        return runner(model, known)(feeds)
    except Exception as error:  # neither engine has errors of a common type
        reason = str(error).split("\n")[0]
        raise VerifyError(f"the smaller model does not run: {reason}", "", float("inf")) from error


def runner(
    model: ModelProto, known: Mapping[str, Array] = MappingProxyType({})
) -> Callable[[Mapping[str, Array]], list[Any]]:
    """A whole model as a function of its inputs, by name.

    Args as for `run_model`; errors are those of what runs it.
    """
    single, known = in_single(model, known)
    run: Callable[[Mapping[str, Array]], Any]
    if _holds_own(single):
        run = partial(_stepwise, single, known=known)
    elif has_runtime():
        run = _in_session(single, known)
    else:
        run = partial(ReferenceEvaluator(single, new_ops=REPAIRED).run, None)
    return lambda feeds: list(run(in_single(model, feeds)[1]))


def _in_session(model: ModelProto, known: Mapping[str, Array]) -> Callable[..., Any]:
    """A model in ONNX Runtime; node by node where that lacks kernels, which the reference has."""
    try:
        return partial(session(model.SerializeToString()).run, None)
    except Exception:  # of any type
        return partial(_stepwise, model, known=known)


def _holds_own(model: ModelProto) -> bool:
    """Whether a model holds operations that no runtime knows, calls of its own functions aside."""
    local = {(f.domain, f.name) for f in model.functions}
    bodies = (model.graph.node, *(f.node for f in model.functions))
    return any(
        (is_own(n) or lacking(n) is not None) and (n.domain, n.op_type) not in local
        for nodes in bodies
        for n in nodes
    )


def _stepwise(
    model: ModelProto, feeds: Mapping[str, Array], known: Mapping[str, Array]
) -> list[Any]:
    """Run a model node by node."""
    if model.functions:
        model = onnx.inliner.inline_local_functions(model)
    opsets = {item.domain: item.version for item in model.opset_import}
    env = {item.name: onnx.numpy_helper.to_array(item) for item in model.graph.initializer}
    env.update(feeds)
    env.update(known)
    for node in ordered(model.graph, "the model"):
        if any(name in known for name in node.output):
            continue
        if evaluator(node) is not None:
            given = [as_value(env[name]) if name else None for name in node.input]
            found = [as_fed(tensor) for tensor in own_results(node, given)]
        else:
            names = {name for name in (*node.input, *captured(node)) if name}
            found = run_node(node, opsets, {name: env[name] for name in names}, torch.float32)
        made = [name for name in node.output if name] if evaluator(node) is None else node.output
        env.update(zip(made, found, strict=False))
    return [env[item.name] for item in model.graph.output]


def runs(
    source: Source,
    inputs: Mapping[str, Array],
    known: Mapping[str, Array] = MappingProxyType({}),
) -> bool:
    """Whether the original model accepts inputs."""
    names = [item.name for item in source.model.graph.output]
    return bool(observe(source, inputs, names, known))


def results(source: Source, inputs: Mapping[str, Array]) -> dict[str, Any] | None:
    """What the original model gives, by name; None where it does not run."""
    names = [item.name for item in source.model.graph.output]
    return _computed(source, inputs, names)


def observe(
    source: Source,
    inputs: Mapping[str, Array],
    names: Sequence[str],
    known: Mapping[str, Array] = MappingProxyType({}),
) -> dict[str, TypeProto] | None:
    """Types of values that have no shape inference, from a run of the whole model.

    It ends before operations that nothing here can run; what these give stays unknown.

    Args:
        source: The model.
        inputs: Its inputs.
        names: The tensors.
        known: Results that are given rather than computed.

    Returns:
        Types by name; None where it does not run.
    """
    found = _computed(source, inputs, names, known)
    return None if found is None else {name: type_of(item) for name, item in found.items()}


def _computed(
    source: Source,
    inputs: Mapping[str, Array],
    names: Sequence[str],
    known: Mapping[str, Array] = MappingProxyType({}),
) -> dict[str, Any] | None:
    """Values of the original model, by name; None where it does not run."""
    model = without_initializers(source.model)
    gone = stop_at_foreign(model, known)
    names = [name for name in names if name not in gone]
    if not names:
        return {}
    for proto in source.model.graph.initializer:
        inside = proto.data_location != TensorProto.EXTERNAL
        model.graph.initializer.append(
            proto if inside else to_proto(source.array(proto.name), proto.name, proto.data_type)
        )
    del model.graph.output[:]
    model.graph.output.extend(helper.make_value_info(name, TypeProto()) for name in names)
    try:
        found = run_model(model, inputs, known)
    except VerifyError:
        return None
    return dict(zip(names, found, strict=True))


def stop_at_foreign(model: ModelProto, known: Collection[str] = ()) -> set[str]:
    """Take out of a model what it cannot run here: foreign operations, and all behind them.

    Args:
        model: The model.
        known: Names of results that are given rather than computed.

    Returns:
        Names of what is not computed any more.
    """
    gone: set[str] = set()
    nodes = []
    local = {(f.domain, f.name) for f in model.functions}
    for node in model.graph.node:
        foreign = lacking(node) is not None and (node.domain, node.op_type) not in local
        foreign = foreign and not all(name in known for name in node.output if name)
        if foreign or gone.intersection((*node.input, *captured(node))):
            gone.update(name for name in node.output if name)
        else:
            nodes.append(node)
    if gone:
        copies = [NodeProto.FromString(node.SerializeToString()) for node in nodes]
        del model.graph.node[:]
        model.graph.node.extend(copies)
    return gone

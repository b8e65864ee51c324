"""int8: weights and activations in eight bits, by ONNX Runtime or torchao.

An int8 number q stands for s·(q - z) with a scale s and a zero point z (Jacob et al., Quantization
and Training of Neural Networks for Efficient Integer-Arithmetic-Only Inference, CVPR 2018). Weights
have a scale for each output channel; the ranges of activations come from calibration inputs: the
caller's, or inputs that are made, as for compensation.
"""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Any

from torch import nn

from graphprune.compensation.calibration import inputs_for
from graphprune.core.errors import GraphPruneError, OptionError, first_line, nearest
from graphprune.core.files import check_target, write_whole
from graphprune.core.graph import Graph
from graphprune.core.program import Program
from graphprune.extensions import load_installed
from graphprune.frontends.opening import open_model
from graphprune.frontends.torch.inference import undisturbed
from graphprune.frontends.torch.inputs import as_inputs
from graphprune.models import given, given_data
from graphprune.passes.couple import couple
from graphprune.quantising.best import best
from graphprune.quantising.files import is_fixed
from graphprune.quantising.modules import quantised_module
from graphprune.quantising.quantised import Quantised
from graphprune.statistics.samples import captured, recut

if TYPE_CHECKING:  # importing graphprune does not import onnx
    from onnx import ModelProto

KINDS = ("static", "dynamic", "weights")
"""Ranges of activations fixed by calibration, or measured at each run; or activations as floats."""

AUTO = "auto"
"""All of them are tried."""

SAMPLES = 128
"""Calibration inputs, at most, unless told."""

JUDGED = 4
"""One chunk of calibration inputs in so many is kept back to judge by."""


@undisturbed
def quantise(
    model: Any,
    data: Any = None,
    *,
    kind: str = "static",
    example_inputs: Any = None,
    out: str | os.PathLike[str] | None = None,
    samples: int = SAMPLES,
    seed: int = 0,
    names: bool = True,
) -> Quantised:
    """Quantise a model to int8.

    ONNX models go through ONNX Runtime's quantizer (QDQ nodes; `pip install 'graphprune[ort]'`),
    modules through torchao's PT2E (`pip install 'graphprune[int8]'`). A module that is to run in
    ONNX Runtime is exported first: `torch.onnx.export`, or `Plan.write("small.onnx")`.

    Args:
        model: An ONNX file, a `ModelProto`, or a `torch.nn.Module`; not modified.
        data: Calibration inputs, as for `graphprune.shrink`; inputs are made where not given.
        kind: `"static"`; or, for ONNX only, without calibration: `"dynamic"`, or `"weights"`, which
            stores weights in int8 and computes with floats, as fast as before and nearly exact; or
            `"auto"`: all are made, and the static one stays unless another agrees as well and is
            faster, or as fast and smaller, on this machine.
        example_inputs: As for `graphprune.shrink`.
        out: Where to write an ONNX model; written whole or not at all.
        samples: Calibration inputs, at most.
        seed: For inputs that are made.
        names: Whether values inside an ONNX model keep their names. False: they get short ones, and
            equal constants are stored once; in small networks that is up to half of the file.

    Returns:
        The quantised model with its bytes and its agreement with the original.

    Raises:
        OptionError: A value is none that could be meant.
        GraphPruneError: What it needs is not installed, no inputs can be made, or the quantizer
            fails.

    Example::

        done = graphprune.quantise("small.onnx", data=images, out="small-int8.onnx")
        print(done)
    """
    if kind not in (*KINDS, AUTO):
        raise OptionError(f"no kind {kind!r}: {nearest(kind, (*KINDS, AUTO))}")
    if isinstance(samples, bool) or not isinstance(samples, int) or samples < 2:
        raise OptionError(f"samples is a whole number of at least 2, not {samples!r}")
    if not isinstance(names, bool):
        raise OptionError(f"names is True or False, not {names!r}")
    load_installed()
    model = given(model)
    is_module = isinstance(model, nn.Module)
    if is_module and kind != "static":
        raise OptionError(
            f"kind={kind!r} is for ONNX models: torchao's quantize_ does it for modules"
        )
    if is_module and not names:
        raise OptionError(
            "names=False is for ONNX models: a module's file holds no names of values"
        )
    if is_module and out is not None:
        raise OptionError("out= is for ONNX models: save a module with torch.export.save")
    target = None if out is None else check_target(out, (".onnx",))
    check_installed(is_module)
    inputs = as_inputs(example_inputs)
    opened = open_model(model, inputs, given_data(data, model, inputs, samples), samples)
    program = opened.program
    if quantised_already(program.graph):
        raise GraphPruneError(
            f"{program.name} holds int8 operations already: quantise the float model it was made of"
        )
    if program.original is not None:
        raise GraphPruneError(
            "the model was captured in parts, and is quantised whole: export it to ONNX first"
        )
    deps = couple(program.graph, ())
    found = inputs_for(program, deps, opened.batches, seed)
    if found is None:
        raise GraphPruneError("no calibration inputs can be made for this model: pass data=")
    proto = None if is_module else _whole(model, program)
    if proto is not None and is_fixed(proto, deps):
        size = captured(deps)
    else:
        size = found.size if len(found.chunks) > 1 else max(captured(deps), found.size // JUDGED)
    chunks = list(recut(deps, found, size))[: max(2, -(-samples // size))]
    if len(chunks) < 2:
        raise GraphPruneError(
            f"{found.number} calibration inputs are too few: some are kept back to judge by"
        )
    held = chunks[::JUDGED]
    seen = [chunk for number, chunk in enumerate(chunks) if number % JUDGED]
    if proto is None:
        done = quantised_module(program, deps, seen, held)
    else:
        kinds = KINDS if kind == AUTO else (kind,)
        done = best(proto, deps, seen, held, names, kinds)
    done.inputs, done.source = size * len(held), found.origin
    if target is not None:
        write_whole(target, done.model.SerializeToString())
    return done


def quantised_already(graph: Graph) -> bool:
    """Whether a graph turns numbers into integers of eight bits, or back."""
    return any(
        value is not None and "int8" in value.dtype and "float" in out.dtype
        for op in graph.ops
        for value in op.inputs[:1]
        for out in op.outputs[:1]
    )


def _whole(model: Any, program: Program) -> ModelProto:
    """A model with all its data; those of large tensors may have stayed in its file."""
    if not isinstance(model, str | os.PathLike):
        proto: ModelProto = program.model
        return proto
    import onnx

    return onnx.load(os.fspath(model))


def check_installed(is_module: bool) -> None:
    """Refuse before the work where a library is missing.

    Args:
        is_module: Whether it is a module that will be quantised, rather than an ONNX model.

    Raises:
        GraphPruneError: Names what is to be installed.
    """
    try:
        if is_module:
            import torchao.quantization.pt2e.quantize_pt2e  # noqa: F401
        else:
            import onnxruntime.quantization  # noqa: F401
    except ImportError as error:
        extra = "int8" if is_module else "ort"
        raise GraphPruneError(
            f"quantise needs {'torchao' if is_module else 'onnxruntime'}: "
            f"pip install 'graphprune[{extra}]' ({first_line(error)})"
        ) from None

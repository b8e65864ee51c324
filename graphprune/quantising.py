"""int8: weights and activations in eight bits, by ONNX Runtime or torchao.

An int8 number q stands for s·(q - z) with a scale s and a zero point z (Jacob et al., Quantization
and Training of Neural Networks for Efficient Integer-Arithmetic-Only Inference, CVPR 2018). Weights
have a scale for each output channel; the ranges of activations come from calibration inputs: the
caller's, or inputs that are made, as for compensation.
"""

from __future__ import annotations

import os
import tempfile
import time
import warnings
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, fields
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import nn
from torch.utils import _pytree as pytree

from graphprune.compensation.calibration import inputs_for
from graphprune.core.agreement import compared
from graphprune.core.errors import GraphPruneError, OptionError, first_line, nearest
from graphprune.core.files import check_target, write_whole
from graphprune.core.graph import Graph
from graphprune.core.groups import Dependencies
from graphprune.core.program import Program
from graphprune.core.progress import LONG, announce, duration
from graphprune.engine.state import quiet
from graphprune.extensions import load_installed
from graphprune.frontends.opening import open_model
from graphprune.frontends.torch.inference import undisturbed
from graphprune.frontends.torch.inputs import as_inputs
from graphprune.frontends.torch.saving import tensor_bytes
from graphprune.models import given
from graphprune.passes.couple import couple
from graphprune.statistics.answers import scored
from graphprune.statistics.samples import captured, recut

if TYPE_CHECKING:  # importing graphprune does not import onnx
    from onnx import ModelProto

KINDS = ("static", "dynamic")
"""Ranges of activations: fixed by calibration, or measured at each run (weights alone are int8)."""

SCHEMA = 1
"""The version of a result as data: it grows where a field is renamed or goes."""

_RANGES = 2  # ranges of weights that are tried, each calibrated and judged anew

JUDGED = 4
"""One chunk of calibration inputs in so many is kept back to judge by."""


@dataclass
class Quantised:
    """A quantised model, and what is known of it.

    Attributes:
        model: A `ModelProto`, or a `torch.fx.GraphModule`.
        bytes: Bytes of the model before and after.
        kept: Share of the outputs' variation that is kept on inputs that calibration did not see
            (`graphprune.core.agreement.Agreement`); None where it could not be measured.
        same: Share of equal answers there; None where outputs are no scores.
        inputs: How many inputs those were.
        source: Where the calibration inputs came from.
        note: How it was quantised, in words.
    """

    model: Any
    bytes: tuple[int, int]
    kept: float | None
    same: float | None
    inputs: int
    source: str
    note: str

    def as_dict(self) -> dict[str, Any]:
        """What is known, without the model, as plain data ready for JSON."""
        held = {each.name: getattr(self, each.name) for each in fields(self)}
        return {"schema": SCHEMA, **{k: v for k, v in held.items() if k != "model"}}

    def __str__(self) -> str:
        before, after = self.bytes
        lines = [
            f"int8: {before:,} -> {after:,} bytes ({before / after:.2f}x smaller), {self.note}"
        ]
        if self.kept is not None:
            line = f"outputs keep {self.kept:.1%} of their variation"
            line += "" if self.same is None else f", the same answer for {self.same:.1%}"
            lines.append(f"{line}, on {self.inputs} inputs that calibration did not see")
        lines.append(f"calibrated on {self.source}")
        return "\n".join(lines)


@undisturbed
def quantise(
    model: Any,
    data: Any = None,
    *,
    kind: str = "static",
    example_inputs: Any = None,
    out: str | os.PathLike[str] | None = None,
    samples: int = 128,
    seed: int = 0,
) -> Quantised:
    """Quantise a model to int8.

    ONNX models go through ONNX Runtime's quantizer (QDQ nodes; `pip install 'graphprune[ort]'`),
    modules through torchao's PT2E (`pip install 'graphprune[int8]'`). A module that is to run in
    ONNX Runtime is exported first: `torch.onnx.export`, or `Plan.write("small.onnx")`.

    Args:
        model: An ONNX file, a `ModelProto`, or a `torch.nn.Module`; not modified.
        data: Calibration inputs, as for `graphprune.shrink`; inputs are made where not given.
        kind: `"static"`, or `"dynamic"`, which needs no calibration (ONNX only).
        example_inputs: As for `graphprune.shrink`.
        out: Where to write an ONNX model; written whole or not at all.
        samples: Calibration inputs, at most.
        seed: For inputs that are made.

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
    if kind not in KINDS:
        raise OptionError(f"no kind {kind!r}: {nearest(kind, KINDS)}")
    if isinstance(samples, bool) or not isinstance(samples, int) or samples < 2:
        raise OptionError(f"samples is a whole number of at least 2, not {samples!r}")
    load_installed()
    model = given(model)
    is_module = isinstance(model, nn.Module)
    if is_module and kind == "dynamic":
        raise OptionError(
            "kind='dynamic' is for ONNX models: torchao's quantize_ does it for modules"
        )
    if is_module and out is not None:
        raise OptionError("out= is for ONNX models: save a module with torch.export.save")
    target = None if out is None else check_target(out, (".onnx",))
    _needed(is_module)
    opened = open_model(model, as_inputs(example_inputs), data, samples)
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
    size = found.size if len(found.chunks) > 1 else max(captured(deps), found.size // JUDGED)
    chunks = list(recut(deps, found, size))[: max(2, -(-samples // size))]
    if len(chunks) < 2:
        raise GraphPruneError(
            f"{found.number} calibration inputs are too few: some are kept back to judge by"
        )
    held = chunks[::JUDGED]
    seen = [chunk for number, chunk in enumerate(chunks) if number % JUDGED]
    maker = _module if is_module else _file
    done = maker(program, deps, seen, held, kind)
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


def _needed(is_module: bool) -> None:
    """Refuse before the work where a library is missing."""
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


# ---------------------------------------------------------------------------------------- ONNX


class _Reader:
    """Calibration inputs as ONNX Runtime asks for them: one chunk after the other."""

    def __init__(self, feeds: Sequence[Mapping[str, Any]]) -> None:
        self._feeds = feeds
        self._next: Iterator[Mapping[str, Any]] = iter(feeds)

    def get_next(self) -> Mapping[str, Any] | None:
        """The next inputs, or None at the end."""
        return next(self._next, None)

    def rewind(self) -> None:
        """Start anew."""
        self._next = iter(self._feeds)


def _file(program: Program, deps: Dependencies, seen: Any, held: Any, kind: str) -> Quantised:
    """Quantise an ONNX model; of two ranges of weights, the one that agrees better."""
    names = [value.name for value in deps.source.inputs]
    reader = _Reader([_feed(names, chunk) for chunk in seen])
    judged = [_feed(names, chunk) for chunk in held]
    original: ModelProto = program.model
    start = time.perf_counter()
    before = answers(original, judged)
    runs = len(judged) + (len(seen) if kind == "static" else 0)
    took = time.perf_counter() - start
    whole = _RANGES * took * runs / len(judged)
    if whole > LONG:
        announce(f"int8: about {duration(whole)}, by the speed of the first runs")
    best: Quantised | None = None
    for reduced in (False, True):
        made = _quantised(original, reader, kind, reduced)
        bits = (
            "7-bit weights (no overflow on processors without VNNI)" if reduced else "8-bit weights"
        )
        numbers = compared(before, answers(made, judged), scored(deps))
        kept, same, _ = numbers or (None, None, None)
        done = Quantised(
            made, (original.ByteSize(), made.ByteSize()), kept, same, 0, "",
            f"{kind} QDQ, {bits}" if kind == "static" else f"dynamic, {bits}",
        )  # fmt: skip
        if best is None or (done.kept or 0) > (best.kept or 0):
            best = done
    assert best is not None
    return best


def _feed(names: Sequence[str], chunk: Sequence[torch.Tensor]) -> dict[str, Any]:
    return {name: x.detach().cpu().numpy() for name, x in zip(names, chunk, strict=True)}


def answers(model: ModelProto, feeds: Sequence[Mapping[str, Any]]) -> list[list[torch.Tensor]]:
    """Results of a model in ONNX Runtime."""
    import onnxruntime as ort

    options = ort.SessionOptions()
    options.log_severity_level = 3
    session = ort.InferenceSession(
        model.SerializeToString(), options, providers=["CPUExecutionProvider"]
    )
    out = []
    for feed in feeds:
        results = [x for x in session.run(None, dict(feed)) if hasattr(x, "dtype")]
        out.append([torch.as_tensor(x) for x in results if x.dtype.kind in "fiub"])
    return out


def _quantised(original: ModelProto, reader: _Reader, kind: str, reduced: bool) -> ModelProto:
    """What ONNX Runtime's quantizer makes of a model."""
    import onnx
    from onnxruntime import quantization as q
    from onnxruntime.quantization.shape_inference import quant_pre_process

    reader.rewind()
    with tempfile.TemporaryDirectory() as folder, warnings.catch_warnings(), quiet():
        warnings.simplefilter("ignore")
        source, ready, made = (Path(folder) / n for n in ("source.onnx", "ready.onnx", "made.onnx"))
        onnx.save(original, source)
        try:
            quant_pre_process(str(source), str(ready), skip_symbolic_shape=True)
        except Exception:  # it only helps
            ready = source
        try:
            if kind == "dynamic":
                q.quantize_dynamic(str(ready), str(made), per_channel=True, reduce_range=reduced)
            else:
                q.quantize_static(
                    str(ready), str(made), reader, quant_format=q.QuantFormat.QDQ, per_channel=True,
                    reduce_range=reduced, activation_type=q.QuantType.QUInt8,
                    weight_type=q.QuantType.QInt8,
                )  # fmt: skip
            return onnx.load(made)
        except Exception as error:
            raise GraphPruneError(
                f"ONNX Runtime cannot quantise this model: {first_line(error)}"
            ) from error


# ------------------------------------------------------------------------------------- modules


def _module(program: Program, deps: Dependencies, seen: Any, held: Any, kind: str) -> Quantised:
    """Quantise a module by torchao's PT2E, for the x86 kernels of Inductor."""
    from torchao.quantization.pt2e import move_exported_model_to_eval
    from torchao.quantization.pt2e.quantize_pt2e import convert_pt2e, prepare_pt2e
    from torchao.quantization.pt2e.quantizer import x86_inductor_quantizer as x86

    module: nn.Module = program.model
    args, kwargs = program.example()
    leaves, structure = pytree.tree_flatten((args, kwargs))

    def inputs(chunk: Sequence[torch.Tensor]) -> tuple[Any, Any]:
        new = iter(chunk)
        filled = [next(new) if isinstance(x, torch.Tensor) else x for x in leaves]
        found: tuple[Any, Any] = pytree.tree_unflatten(filled, structure)
        return found

    first_args, first_kwargs = inputs(seen[0])
    training = module.training
    try:
        with quiet(), warnings.catch_warnings(), torch.no_grad():
            warnings.simplefilter("ignore")
            exported = torch.export.export(
                module.eval(), first_args, first_kwargs, strict=False
            ).module()
            quantizer = x86.X86InductorQuantizer()
            quantizer.set_global(x86.get_default_x86_inductor_quantization_config())
            prepared = prepare_pt2e(exported, quantizer)
            for chunk in seen:
                own_args, own_kwargs = inputs(chunk)
                prepared(*own_args, **own_kwargs)
            made = convert_pt2e(prepared)
            move_exported_model_to_eval(made)
            before, after = ([_flat(f, inputs(chunk)) for chunk in held] for f in (module, made))
    except Exception as error:
        raise GraphPruneError(f"torchao cannot quantise this model: {first_line(error)}") from error
    finally:
        module.train(training)
    unused = set(dict(made.named_parameters())) | set(dict(made.named_buffers()))
    unused -= {node.target for node in made.graph.nodes if node.op == "get_attr"}
    numbers = compared(before, after, scored(deps))
    kept, same, _ = numbers or (None, None, None)
    note = "static PT2E for x86; fast once compiled by torch.compile(model)"
    return Quantised(
        made, (tensor_bytes(module), tensor_bytes(made, unused)), kept, same, 0, "", note
    )


def _flat(function: Any, given: tuple[Any, Any]) -> list[torch.Tensor]:
    args, kwargs = given
    output = function(*args, **kwargs)
    if hasattr(output, "to_tuple"):
        output = output.to_tuple()
    return [x for x in pytree.tree_leaves(output) if isinstance(x, torch.Tensor)]

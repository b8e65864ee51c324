"""ONNX models in int8, by ONNX Runtime's quantizer; and what models answer there."""

from __future__ import annotations

import tempfile
import time
import warnings
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from graphprune.core.agreement import compared
from graphprune.core.errors import GraphPruneError, first_line
from graphprune.core.groups import Dependencies
from graphprune.core.progress import LONG, announce, duration
from graphprune.engine.state import quiet
from graphprune.frontends.onnx.eight_bits import in_eight_bits
from graphprune.quantising.lean import lean
from graphprune.quantising.quantised import Quantised
from graphprune.statistics.answers import scored

if TYPE_CHECKING:  # importing graphprune does not import onnx
    from onnx import ModelProto


_NOTES = {"static": "static QDQ", "dynamic": "dynamic", "weights": "weights alone"}
RANGES = 2  # ranges of weights that are tried, each calibrated and judged anew

_QUANTIZED, _BY_CHANNEL = 10, 13  # opsets from which on tensors, and channels, have scales


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


def quantised_file(
    original: ModelProto, deps: Dependencies, seen: Any, held: Any, kind: str, names: bool
) -> Quantised:
    """Quantise an ONNX model; of two ranges of weights, the one that agrees better.

    Args:
        original: The model.
        deps: Its analysis.
        seen: Calibration inputs, in chunks.
        held: Inputs to judge by, in chunks.
        kind: One of `graphprune.quantising.quantise.KINDS`.
        names: Whether inner values keep their names.
    """
    reader = _Reader([feed(deps, chunk) for chunk in seen])
    judged = [feed(deps, chunk) for chunk in held]
    start = time.perf_counter()
    before = answers(original, judged)
    runs = len(judged) + (len(seen) if kind == "static" else 0)
    took = time.perf_counter() - start
    ways = (False,) if kind == "weights" else (False, True)
    whole = len(ways) * took * runs / len(judged)
    if whole > LONG:
        announce(f"int8: about {duration(whole)}, by the speed of the first runs")
    best: Quantised | None = None
    for reduced in ways:
        if kind == "weights":
            made = in_eight_bits(original)
        else:
            made = _quantised(original, reader, kind, reduced)
        made = made if names else lean(made)
        bits = (
            "7-bit weights (no overflow on processors without VNNI)" if reduced else "8-bit weights"
        )
        numbers = compared(before, answers(made, judged), scored(deps))
        kept, same, _ = numbers or (None, None, None)
        done = Quantised(
            made, (original.ByteSize(), made.ByteSize()), kept, same, 0, "",
            f"{_NOTES[kind]}, {bits}",
        )  # fmt: skip
        if best is None or (done.kept or 0) > (best.kept or 0):
            best = done
    assert best is not None
    return best


def feed(deps: Dependencies, chunk: Sequence[torch.Tensor]) -> dict[str, Any]:
    """A chunk of inputs as ONNX Runtime takes them."""
    names = [value.name for value in deps.source.inputs]
    return {name: x.detach().cpu().numpy() for name, x in zip(names, chunk, strict=True)}


def is_fixed(model: ModelProto, deps: Dependencies) -> bool:
    """Whether a model takes inputs of one batch size only."""
    names = {value.name for value in deps.source.inputs}
    shapes = [x.type.tensor_type.shape.dim for x in model.graph.input if x.name in names]
    return any(shape and shape[0].HasField("dim_value") for shape in shapes)


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
    """What ONNX Runtime's quantizer makes of a model: a scale for each channel where it can.

    Older opsets have one scale a tensor, as grouped transposed convolutions have, where it fails.
    """
    import onnx
    from onnxruntime import quantization as q
    from onnxruntime.quantization.shape_inference import quant_pre_process

    opset = max(
        (o.version for o in original.opset_import if o.domain in ("", "ai.onnx")), default=1
    )
    if opset < _QUANTIZED:
        raise GraphPruneError(
            f"opset {opset} has no quantized numbers: export the model with opset {_BY_CHANNEL} or "
            "later"
        )
    reader.rewind()
    with tempfile.TemporaryDirectory() as folder, warnings.catch_warnings(), quiet():
        warnings.simplefilter("ignore")
        source, ready, made = (Path(folder) / n for n in ("source.onnx", "ready.onnx", "made.onnx"))
        onnx.save(original, source)
        try:
            quant_pre_process(str(source), str(ready), skip_symbolic_shape=True)
        except Exception:  # it only helps
            ready = source
        for by_channel in (True, False) if opset >= _BY_CHANNEL else (False,):
            options = {"per_channel": by_channel, "reduce_range": reduced}
            try:
                if kind == "dynamic":
                    q.quantize_dynamic(str(ready), str(made), **options)
                else:
                    reader.rewind()
                    q.quantize_static(
                        str(ready), str(made), reader, quant_format=q.QuantFormat.QDQ,
                        activation_type=q.QuantType.QUInt8, weight_type=q.QuantType.QInt8,
                        **options,
                    )  # fmt: skip
                return onnx.load(made)
            except Exception as error:  # its errors have no common type
                failed = error
    raise GraphPruneError(
        f"ONNX Runtime cannot quantise this model: {first_line(failed)}"
    ) from failed

"""The stages of a deployment: each is done, measured and kept, or taken from a call before."""

from __future__ import annotations

import gzip
import hashlib
import json
import logging
import os
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

import torch
from torch import nn
from torch.export import ExportedProgram
from torch.utils import _pytree as pytree

from graphprune.compensation.calibration import inputs_for
from graphprune.core.agreement import compared
from graphprune.core.batch import Batch
from graphprune.core.callers import judged
from graphprune.core.errors import GraphPruneError, first_line
from graphprune.core.files import write_whole
from graphprune.costs.registry import cost_name
from graphprune.deploying.deployed import Stage
from graphprune.deploying.estimate import besides
from graphprune.deploying.kept import TORCH, digest, kept
from graphprune.engine.copying import copied
from graphprune.engine.tensors import shapes_of
from graphprune.exporting import write_module
from graphprune.frontends.opening import open_model
from graphprune.frontends.torch.saving import save_model
from graphprune.options import PlanOptions
from graphprune.passes.couple import couple
from graphprune.pipeline import Work
from graphprune.planning import planned
from graphprune.plans import Plan, made
from graphprune.quantising.files import answers, is_fixed
from graphprune.quantising.quantise import quantise
from graphprune.quantising.quantised import Quantised
from graphprune.quantising.written import named
from graphprune.statistics.answers import scored
from graphprune.statistics.batches import read_batches
from graphprune.statistics.samples import captured, recut
from graphprune.training import recover as recovered
from graphprune.training.constants import EPOCHS, MEMORY, SAMPLES
from graphprune.training.streamed import Window, is_read_again, source_of

if TYPE_CHECKING:  # importing graphprune does not import onnx
    from onnx import ModelProto


Metric = Callable[[Callable[..., Any]], float]
"""Judges a stage: gets a function of the model's inputs (tensors) that returns its outputs (a
tensor, or a list of them), and gives a number, the larger the better."""

JUDGED_BY = 128
"""Inputs that stages are compared on, at most."""

_FEW = "data holds one sample: two at least are needed"
_STATE = "state.json"
_log = logging.getLogger("graphprune")


class Stages:
    """The stages of one deployment.

    Args:
        model: The model.
        place: The folder of files that stages leave.
        data: Calibration data, or None.
        metric: What a model is worth; None: its agreement with the original.
        asked: Ratio, cost and options of the plan.
        names: Whether inner values of an int8 file keep their names.

    Attributes:
        stages: Those that are done.
        notes: What the caller should know.
        last: The file of the last stage.
    """

    def __init__(
        self, model: Any, place: Path, data: Any, metric: Metric | None, asked: tuple[Any, ...],
        names: bool,
    ) -> None:  # fmt: skip
        self._model, self._place, self._metric, self._asked = model, place, metric, asked
        self._names = names
        self._data, self._judges, self._training = _divided(model, data)
        self.stages: list[Stage] = []
        self.notes: list[str] = []
        self.last = place / "original.onnx"
        self.macs: tuple[int, int] | None = None
        self._known: dict[str, Any] = {}
        self._key = ""
        self._due: list[str] = []
        self._epochs = EPOCHS
        self._before: list[list[torch.Tensor]] | None = None
        self._feeds: list[dict[str, Any]] = []
        self._scores: list[bool] = []
        self._small: nn.Module | None = None

    @cached_property
    def plan(self) -> Plan[Any]:
        """What goes, decided when it is first needed."""
        ratio, of, options = self._asked
        asked = cast(PlanOptions, {**options, "data": self._data})
        found: Plan[Any] = made(planned(self._model, ratio, of, asked, beyond=self._besides))
        assert found.report is not None
        self.macs = found.report.macs
        return found

    def _besides(self, work: Work) -> float:
        """Estimated seconds of what follows the plan, on one core."""
        known = self._known.get("stages", {})
        left = [name for name in self._due if name not in known]
        number = judged = None
        if self._data is not None and self._judges is not None:
            judged = sum(batch.samples for batch in self._judges)
            number = sum(batch.samples for batch in self._data)
            number = getattr(self._training, "samples", number)
        judged = JUDGED_BY if judged is None else min(judged, JUDGED_BY)
        return besides(work, left, number, judged, self._epochs)

    def check(self, recover: Any, int8: bool | str) -> None:
        """Read what an earlier call left.

        Raises:
            GraphPruneError: It was another deployment.
        """
        ratio, of, options = self._asked
        trains = recover is not False
        self._due = ["original", "shrink", *["recover"] * trains, *["int8"] * bool(int8)]
        self._epochs = recover.get("epochs", EPOCHS) if isinstance(recover, Mapping) else EPOCHS
        given = (ratio, cost_name(of), recover, int8, self._names)
        asked = repr((*given, sorted(options.items(), key=str)))
        self._key = hashlib.sha256(asked.encode() + digest(self._model)).hexdigest()
        state = self._place / _STATE
        if not state.is_file():
            return
        self._known = kept(state)
        if self._known["key"] != self._key:
            raise GraphPruneError(
                f"{self._place} holds another deployment (another model or other options): name "
                "another folder, or delete it"
            )
        self.macs, self.notes = self._known["macs"], self._known["notes"]

    def stage(self, name: str, work: Callable[[], None]) -> None:
        """Do a stage, unless an earlier call did it, and measure it."""
        target = self._place / f"{name}.onnx"
        known = self._known.get("stages", {}).get(name)
        self.last = target
        if known is not None and target.is_file() and target.stat().st_size == known.bytes:
            self.stages.append(known)
            return
        start = time.perf_counter()
        work()
        took = time.perf_counter() - start
        self.stages.append(self._measured(name, target, took))
        held = {
            "key": self._key, "macs": self.macs, "notes": self.notes,
            "stages": {s.name: asdict(s) for s in self.stages},
        }  # fmt: skip
        write_whole(self._place / _STATE, json.dumps(held, indent=1).encode())

    def export(self) -> None:
        """The original as an ONNX file, as PyTorch exports it."""
        if isinstance(self._model, TORCH):
            self._write(self._model, save_model)
        elif isinstance(self._model, str | os.PathLike):
            write_whole(self.last, _read(self._model).SerializeToString())
        else:
            write_whole(self.last, self.plan.live().program.model.SerializeToString())

    def shrink(self) -> None:
        """The smaller model as an ONNX file."""
        if isinstance(self._model, TORCH):
            self._small = self.plan.apply()
            self._write(self._small)
        else:
            self.plan.write(self.last)

    def recover(self, options: dict[str, Any]) -> None:
        """The smaller model, trained."""
        small = self.plan.apply() if self._small is None else self._small
        self._small = recovered(small, self._model, self._training, **options)
        self._write(self._small)

    def quantise(self, kind: str) -> None:
        """The last stage's file in int8, of one kind or `"auto"`."""
        before = self._place / f"{self.stages[-1].name}.onnx"
        data = named(before, self._data)
        done: Quantised = quantise(str(before), data, kind=kind, names=self._names)
        write_whole(self.last, done.model.SerializeToString())
        self.notes.append(f"int8: {done.note}, calibrated on {done.source}")

    def _judging(self) -> list[dict[str, Any]]:
        """Inputs that all stages are compared on."""
        if not self._feeds:
            first = self._place / "original.onnx"
            self._feeds, self._scores = _inputs(_read(first), named(first, self._judges))
        return self._feeds

    def _write(
        self, module: nn.Module | ExportedProgram, how: Callable[..., None] = write_module
    ) -> None:
        program = self.plan.live().program
        if isinstance(module, nn.Module) and module.training:
            module = copied(module).eval()
        how(module, program.given or program.inputs, self.last)

    def _measured(self, name: str, path: Path, took: float) -> Stage:
        """Measure a stage beside the original."""
        from graphprune.frontends.onnx.speed import speed

        content, proto = path.read_bytes(), _read(path)
        number = sum(
            int(torch.tensor(list(x.dims)).prod()) if x.dims else 1 for x in proto.graph.initializer
        )
        stage = Stage(name, number, len(content), len(gzip.compress(content)), took=took)
        first = _read(self._place / "original.onnx")
        feeds = self._judging()
        self._before = self._before or answers(first, feeds)
        after = answers(proto, feeds)
        numbers = compared(self._before, after, self._scores)
        if numbers is not None:
            stage.kept, stage.same, _ = numbers
        if self._metric is not None:
            stage.metric = judged("metric(predict)", self._metric, _predictor(proto))
        times = speed(first, proto, feeds[0])
        stage.seconds = None if times is None else times[1]
        return stage


def _divided(model: Any, data: Any) -> tuple[list[Batch] | None, list[Batch] | None, Any]:
    """The caller's data: what stages work with, are compared on, and train on.

    Of a loader, that is read anew in each pass of a training, stages work with what fits in memory.
    """
    if data is None:
        return None, None, None
    if isinstance(model, nn.Module) and is_read_again(data):
        source = source_of(data, model, torch.Generator().manual_seed(0))
        if source.samples < 2:
            raise GraphPruneError(_FEW)
        judges = source.hold_out(max(1, min(source.samples // 4, JUDGED_BY)))
        window = Window(iter(source))
        window.fill(MEMORY)
        _check_alike([*window.batches, *judges])
        return window.batches, judges, source
    if isinstance(model, nn.Module):
        batches = read_batches(data, model, SAMPLES)
        _check_alike(batches)
    else:
        batches = list(open_model(model, None, data, SAMPLES).batches)
    if len(batches) < 2:
        size = batches[0].samples
        if size < 2:
            raise GraphPruneError(_FEW)
        batches = [batches[0].part(0, size - size // 4), batches[0].part(size - size // 4, size)]
    number = max(1, min(len(batches) // 4, -(-JUDGED_BY // batches[-1].samples)))
    return batches[:-number], batches[-number:], batches[:-number]


def _check_alike(batches: Sequence[Batch]) -> None:
    """Refuse samples of several shapes before the work: a file is calibrated on one.

    Raises:
        GraphPruneError: There are such.
    """
    first = shapes_of(_tensors(batches[0].head(1)))
    for number, batch in enumerate(batches):
        found = shapes_of(_tensors(batch.head(1)))
        if found != first:
            raise GraphPruneError(
                f"data: a sample of batch {number} is {found}, one of batch 0 {first}: pass "
                "samples of one shape"
            )


def _tensors(batch: Batch) -> list[torch.Tensor]:
    leaves = pytree.tree_leaves((batch.args, batch.kwargs))
    return [x for x in leaves if isinstance(x, torch.Tensor)]


def _read(path: str | os.PathLike[str]) -> ModelProto:
    """An ONNX file.

    Raises:
        GraphPruneError: It cannot be read.
    """
    import onnx

    try:
        return onnx.load(path)
    except Exception as error:
        raise GraphPruneError(f"cannot read {path}: {first_line(error)}") from error


def _inputs(model: ModelProto, data: Any) -> tuple[list[dict[str, Any]], list[bool]]:
    """Inputs to compare stages on, the caller's or made ones; and which results are scores."""
    opened = open_model(model, None, data, JUDGED_BY)
    deps = couple(opened.program.graph, ())
    found = inputs_for(opened.program, deps, opened.batches, seed=1)
    if found is None:
        raise GraphPruneError("no inputs can be made to compare the stages on: pass data=")
    names = [value.name for value in deps.source.inputs]
    size = captured(deps) if is_fixed(model, deps) else found.size
    chunks = list(recut(deps, found, size))[: max(1, JUDGED_BY // size)]
    feeds = [{n: x.cpu().numpy() for n, x in zip(names, c, strict=True)} for c in chunks]
    return feeds, scored(deps)


def _predictor(model: ModelProto) -> Callable[..., Any]:
    """A function of the model's inputs that returns its outputs."""
    names = [item.name for item in model.graph.input]

    def predict(*inputs: Any) -> Any:
        feed = {n: torch.as_tensor(x).numpy() for n, x in zip(names, inputs, strict=True)}
        (found,) = answers(model, [feed])
        return found[0] if len(found) == 1 else found

    return predict

"""deploy: shrink, recover, quantise and export in one call, each stage measured."""

from __future__ import annotations

import copy
import gzip
import hashlib
import json
import os
import tempfile
import time
from collections.abc import Callable, Mapping
from contextlib import nullcontext
from dataclasses import asdict, dataclass, field
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import nn

from graphprune.api import plan as make_plan
from graphprune.compensation.calibration import inputs_for
from graphprune.core.agreement import compared
from graphprune.core.batch import Batch
from graphprune.core.errors import GraphPruneError, OptionError
from graphprune.core.files import check_target, write_whole
from graphprune.core.progress import interruptible
from graphprune.costs.registry import Counting, cost_name
from graphprune.frontends.opening import open_model
from graphprune.frontends.torch.saving import save_model
from graphprune.models import given
from graphprune.passes.couple import couple
from graphprune.plans import Plan
from graphprune.quantising import Quantised, answers, quantise, quantised_already
from graphprune.statistics.answers import scored
from graphprune.statistics.batches import read_batches
from graphprune.training import recover as recovered
from graphprune.training.recover import SAMPLES

if TYPE_CHECKING:  # importing graphprune does not import onnx
    from onnx import ModelProto

Metric = Callable[[Callable[..., Any]], float]
"""Judges a stage: gets a function of the model's inputs (tensors) that returns its outputs (a
tensor, or a list of them), and gives a number, the larger the better."""

STEEP, STEEPEST = 10.0, 20.0
"""Compression from which on a word of warning is due, and from which on the reason is told."""

JUDGED_BY = 128
"""Inputs that stages are compared on, at most."""

SCHEMA = 1
"""The version of a deployment as data: it grows where a field is renamed or goes."""

_STATE = "state.json"


@dataclass
class Stage:
    """A stage of a deployment, as measured in ONNX Runtime on the same inputs as all others.

    Attributes:
        name: `"original"`, `"shrink"`, `"recover"` or `"int8"`.
        parameters: Numbers in its initializers.
        bytes: Of its ONNX file.
        zipped: Of that file, compressed by gzip.
        kept: Share of the original's outputs' variation that is kept; see `Agreement`.
        same: Share of equal answers; None where outputs are no scores.
        metric: What the caller's metric gives; None without one.
        seconds: Of one run; None where it was not measured.
        took: Seconds that the stage's own work took.
    """

    name: str
    parameters: int
    bytes: int
    zipped: int
    kept: float | None = None
    same: float | None = None
    metric: float | None = None
    seconds: float | None = None
    took: float = 0.0


@dataclass
class Deployed:
    """What `deploy` made.

    Attributes:
        path: The file.
        stages: The stages, the original first.
        macs: Multiply-accumulates before and after.
        warnings: What the caller should know.
    """

    path: Path
    stages: list[Stage] = field(default_factory=list)
    macs: tuple[int, int] | None = None
    warnings: list[str] = field(default_factory=list)

    @property
    def compression(self) -> float:
        """Bytes of the original's file by those of the result's."""
        return self.stages[0].bytes / self.stages[-1].bytes

    def as_dict(self) -> dict[str, Any]:
        """The same as plain data, ready for JSON."""
        return {
            "schema": SCHEMA,
            **asdict(self),
            "path": str(self.path),
            "compression": self.compression,
        }

    def __str__(self) -> str:
        first = self.stages[0]
        head = [
            "stage",
            "parameters",
            "kB",
            "gzip kB",
            "outputs kept",
            "same answer",
            "metric",
            "ms",
        ]
        rows = [head]
        for stage in self.stages:
            rows.append([
                stage.name, f"{stage.parameters:,}", f"{stage.bytes / 1e3:,.1f}",
                f"{stage.zipped / 1e3:,.1f}", _percent(stage.kept), _percent(stage.same),
                "-" if stage.metric is None else f"{stage.metric:.4g}",
                "-" if stage.seconds is None else f"{stage.seconds * 1e3:.3g}",
            ])  # fmt: skip
        widths = [max(len(row[i]) for row in rows) for i in range(len(head))]
        lines = [
            "  ".join(x.ljust(w) if i == 0 else x.rjust(w) for i, (x, w) in
                      enumerate(zip(row, widths, strict=True))).rstrip()
            for row in rows
        ]  # fmt: skip
        last = self.stages[-1]
        lines.append(f"{self.compression:.1f}x fewer bytes")
        if self.macs is not None:
            lines[-1] += f", {self.macs[0] / self.macs[1]:.1f}x fewer MACs"
        if first.seconds and last.seconds:
            lines[-1] += f", {first.seconds / last.seconds:.1f}x as fast as measured"
        return "\n".join([*lines, *(f"note: {text}" for text in self.warnings)])


def deploy(
    model: Any,
    ratio: float = 0.5,
    of: str | Counting = "params",
    *,
    out: str | os.PathLike[str],
    data: Any = None,
    recover: bool | Mapping[str, Any] = False,
    int8: bool = True,
    metric: Metric | None = None,
    folder: str | os.PathLike[str] | None = None,
    **options: Any,
) -> Deployed:
    """Shrink a model, recover its accuracy, quantise it, and write it as an ONNX file.

    Args:
        model: A module or an ONNX model, as for `graphprune.shrink`; not modified.
        ratio: As for `graphprune.shrink`.
        of: As for `graphprune.shrink`.
        out: The `.onnx` file to write; written whole or not at all.
        data: Data for statistics, recovery and calibration; inputs are made where not given. A
            generator serves once: pass a list or a loader.
        recover: Whether `graphprune.recover` trains the smaller module; options for it may be
            given as a dict.
        int8: Whether the result is quantised (`graphprune.quantise`).
        metric: Judges every stage; see `Metric`.
        folder: Where stages are kept, so that a call that was interrupted goes on behind the last
            stage that was done; made if it does not exist. None: nowhere.
        **options: As for `graphprune.plan`.

    Returns:
        The stages with sizes, agreement, metric and time; `print` shows them as a table.

    Raises:
        OptionError: A value is none that could be meant.
        GraphPruneError: A stage fails, or `folder` holds another deployment.

    Example::

        done = graphprune.deploy(model, ratio=0.5, data=loader, recover=True, out="small.onnx")
        print(done)
    """
    target = check_target(out, (".onnx",))
    if not isinstance(int8, bool) or not isinstance(recover, bool | Mapping):
        raise OptionError("int8 is True or False, recover too, or a dict of options for recover")
    if metric is not None and not callable(metric):
        raise OptionError(f"metric is a function of a function, not {metric!r}")
    model = given(model)
    if recover is not False and not isinstance(model, nn.Module):
        raise OptionError("recover= trains a module: pass the module rather than a file of it")
    made = options.pop("verify", True)
    if int8 and not isinstance(model, nn.Module):
        lifted = open_model(model, None, None, 1).program
        if quantised_already(lifted.graph):
            raise OptionError(f"{lifted.name} holds int8 operations already: pass int8=False")
    kept = "nothing is kept; with folder=, the same call goes on behind the last stage"
    if folder is not None:
        kept = f"stages that were finished are kept in {folder}, and the same call goes on"
    with interruptible(lambda: kept), _place(folder) as place:
        run = _Run(model, Path(place), data, metric, (ratio, of, {**options, "verify": made}))
        run.check(recover, int8)
        run.stage("original", run.export)
        run.stage("shrink", run.shrink)
        if recover is not False:
            run.stage("recover", lambda: run.recover({} if recover is True else dict(recover)))
        if int8:
            run.stage("int8", run.quantise)
        done = Deployed(target, run.stages, run.macs, run.notes)
        if done.compression > STEEP:
            done.warnings.append(_steep(done.compression))
        write_whole(target, run.last.read_bytes())
    return done


def _steep(compression: float) -> str:
    text = f"{compression:.0f}x smaller: look at agreement and metric before you ship it"
    if compression > STEEPEST:
        text += (
            "; beyond some 20x few published methods keep their accuracy, even when trained again "
            "(Blalock et al., What is the State of Neural Network Pruning?, MLSys 2020)"
        )
    return text


def _percent(share: float | None) -> str:
    return "-" if share is None else f"{share:.1%}"


def _place(folder: str | os.PathLike[str] | None) -> Any:
    """The folder of the stages: the caller's, or one that goes afterwards."""
    if folder is None:
        return tempfile.TemporaryDirectory()
    path = Path(folder)
    if path.exists() and not path.is_dir():
        raise GraphPruneError(f"folder={path} is a file")
    path.mkdir(parents=True, exist_ok=True)
    return nullcontext(str(path))


class _Run:
    """The stages of one deployment.

    Attributes:
        stages: Those that are done.
        notes: What the caller should know.
        last: The file of the last stage.
    """

    def __init__(
        self, model: Any, place: Path, data: Any, metric: Metric | None, asked: tuple[Any, ...]
    ) -> None:
        self._model, self._place, self._metric, self._asked = model, place, metric, asked
        self._data, self._judges = _divided(model, data)
        self.stages: list[Stage] = []
        self.notes: list[str] = []
        self.last = place / "original.onnx"
        self.macs: tuple[int, int] | None = None
        self._known: dict[str, Any] = {}
        self._key = ""
        self._before: list[list[torch.Tensor]] | None = None
        self._feeds: list[dict[str, Any]] = []
        self._scores: list[bool] = []
        self._small: nn.Module | None = None

    @cached_property
    def plan(self) -> Plan[Any]:
        """What goes, decided when it is first needed."""
        ratio, of, options = self._asked
        found: Plan[Any] = make_plan(self._model, ratio, of, data=self._data, **options)
        assert found.report is not None
        self.macs = found.report.macs
        return found

    def check(self, recover: Any, int8: bool) -> None:
        """Read what an earlier call left.

        Raises:
            GraphPruneError: It was another deployment.
        """
        ratio, of, options = self._asked
        asked = repr((ratio, cost_name(of), recover, int8, sorted(options.items(), key=str)))
        self._key = hashlib.sha256(asked.encode() + _digest(self._model)).hexdigest()
        state = self._place / _STATE
        if not state.is_file():
            return
        try:
            self._known = json.loads(state.read_text())
        except ValueError as error:
            raise GraphPruneError(f"{state} holds no state of a deployment: {error}") from error
        if self._known.get("key") != self._key:
            raise GraphPruneError(
                f"{self._place} holds another deployment (another model or other options): name "
                "another folder, or delete it"
            )
        if self._known.get("macs"):
            before, after = self._known["macs"]
            self.macs = before, after
        self.notes = list(self._known.get("notes", ()))

    def stage(self, name: str, work: Callable[[], None]) -> None:
        """Do a stage, unless an earlier call did it, and measure it."""
        target = self._place / f"{name}.onnx"
        known = self._known.get("stages", {}).get(name)
        self.last = target
        if known is not None and target.is_file():
            self.stages.append(Stage(**known))
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
        """The original as an ONNX file."""
        if isinstance(self._model, nn.Module):
            self._write(self._model)
        elif isinstance(self._model, str | os.PathLike):
            write_whole(self.last, _read(self._model).SerializeToString())
        else:
            write_whole(self.last, self.plan.live().program.model.SerializeToString())

    def shrink(self) -> None:
        """The smaller model as an ONNX file."""
        if isinstance(self._model, nn.Module):
            self._small = self.plan.apply()
            self._write(self._small)
        else:
            self.plan.write(self.last)

    def recover(self, options: dict[str, Any]) -> None:
        """The smaller model, trained."""
        small = self.plan.apply() if self._small is None else self._small
        self._small = recovered(small, self._model, self._data, **options)
        self._write(self._small)

    def quantise(self) -> None:
        """The last stage's file in int8."""
        before = self._place / f"{self.stages[-1].name}.onnx"
        done: Quantised = quantise(str(before), _named(before, self._data))
        write_whole(self.last, done.model.SerializeToString())
        self.notes.append(f"int8: {done.note}, calibrated on {done.source}")

    def _write(self, module: nn.Module) -> None:
        program = self.plan.live().program
        evaluated = copy.deepcopy(module).eval() if module.training else module
        save_model(evaluated, program.given or program.inputs, self.last)

    def _measured(self, name: str, path: Path, took: float) -> Stage:
        """Measure a stage beside the original."""
        from graphprune.frontends.onnx.speed import speed

        content, proto = path.read_bytes(), _read(path)
        number = sum(
            int(torch.tensor(list(x.dims)).prod()) if x.dims else 1 for x in proto.graph.initializer
        )
        stage = Stage(name, number, len(content), len(gzip.compress(content)), took=took)
        first = _read(self._place / "original.onnx")
        if not self._feeds:
            judges = _named(self._place / "original.onnx", self._judges)
            self._feeds, self._scores = _inputs(first, judges)
            self._before = answers(first, self._feeds)
        assert self._before is not None
        after = answers(proto, self._feeds)
        numbers = compared(self._before, after, self._scores)
        if numbers is not None:
            stage.kept, stage.same, _ = numbers
        if self._metric is not None:
            stage.metric = float(self._metric(_predictor(proto)))
        times = speed(first, proto, self._feeds[0])
        stage.seconds = None if times is None else times[1]
        return stage


def _divided(model: Any, data: Any) -> tuple[list[Batch] | None, list[Batch] | None]:
    """The caller's data: what stages work with, and what they are compared on."""
    if data is None:
        return None, None
    if isinstance(model, nn.Module):
        batches = read_batches(data, model, SAMPLES)
    else:
        batches = list(open_model(model, None, data, SAMPLES).batches)
    if len(batches) < 2:
        size = batches[0].samples
        if size < 2:
            raise GraphPruneError("data holds one sample: two at least are needed")
        batches = [batches[0].part(0, size - size // 4), batches[0].part(size - size // 4, size)]
    number = max(1, min(len(batches) // 4, -(-JUDGED_BY // batches[-1].samples)))
    return batches[:-number], batches[-number:]


def _read(path: str | os.PathLike[str], whole: bool = True) -> ModelProto:
    """An ONNX file; without its external data where those are not needed."""
    import onnx

    return onnx.load(path, load_external_data=whole)


def _named(path: Path, batches: list[Batch] | None) -> list[dict[str, Any]] | None:
    """Batches as a file's inputs are named; labels do not count."""
    if batches is None:
        return None
    names = [item.name for item in _read(path, False).graph.input]
    out = []
    for batch in batches:
        rest = (name for name in names if name not in batch.kwargs)
        by_name = {**batch.kwargs, **dict(zip(rest, batch.args, strict=False))}
        feeds = {n: torch.as_tensor(by_name[n]) for n in names if n in by_name}
        out.append({n: x.detach().cpu().numpy() for n, x in feeds.items()})
    return out


def _digest(model: Any) -> bytes:
    """What tells one model from another."""
    found = hashlib.sha256()
    if isinstance(model, nn.Module):
        for name, tensor in model.state_dict().items():
            found.update(name.encode() + str(tuple(tensor.shape)).encode())
            found.update(tensor.detach().cpu().contiguous().flatten().view(torch.uint8).numpy())
    elif isinstance(model, str | os.PathLike):
        found.update(Path(model).read_bytes())
    else:
        found.update(str(type(model)).encode())
        found.update(getattr(model, "SerializeToString", bytes)())
    return found.digest()


def _inputs(model: ModelProto, data: Any) -> tuple[list[dict[str, Any]], list[bool]]:
    """Inputs to compare stages on, the caller's or made ones; and which results are scores."""
    opened = open_model(model, None, data, JUDGED_BY)
    deps = couple(opened.program.graph, ())
    found = inputs_for(opened.program, deps, opened.batches, seed=1)
    if found is None:
        raise GraphPruneError("no inputs can be made to compare the stages on: pass data=")
    names = [value.name for value in deps.source.inputs]
    chunks = found.chunks[: max(1, JUDGED_BY // found.size)]
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

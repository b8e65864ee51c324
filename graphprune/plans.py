"""Plans: made for a live model, or read from a file; they travel as JSON."""

from __future__ import annotations

import json
import logging
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Generic, TypeVar

import numpy as np
from torch import nn

from graphprune.compensation.options import Options
from graphprune.core.edits import Edit, cut_by
from graphprune.core.errors import GraphPruneError, LiftError, PlanError
from graphprune.core.files import check_target, write_whole
from graphprune.core.indices import Indices
from graphprune.core.keep import Keep
from graphprune.core.markup import heading, table
from graphprune.core.program import Inputs
from graphprune.exporting import fold_file
from graphprune.frontends.opening import open_model
from graphprune.frontends.torch.described import describe
from graphprune.frontends.torch.inference import undisturbed
from graphprune.models import given, given_data
from graphprune.passes.same import Same
from graphprune.pipeline import Asked, Pipeline, Work
from graphprune.pipelines import DEFAULT
from graphprune.planning import parted, worked
from graphprune.recalibration import remember
from graphprune.report.made import reported
from graphprune.report.report import Report
from graphprune.statistics.batches import UNSEEN
from graphprune.version import __version__

M = TypeVar("M")

_log = logging.getLogger("graphprune")

SUFFIXES = (".pt", ".pt2", ".onnx")
"""How files of models end."""

_FORMAT = 2


@dataclass(repr=False)
class Plan(Generic[M]):
    """Which edits make a model smaller: can be applied, saved, changed by hand, applied again.

    Attributes:
        edits: What is changed: for every coupled group the indices that stay.
        inputs: Example inputs, positional and keyword.
        keep: Name patterns that were left as they are.
        of: The cost that `asked` speaks of.
        asked: The ratio asked for.
        verify: Whether `apply` checks its result.
        seed: For the check.
        released: Name patterns of ranks of adapters that may shrink, for they were asked for.
        options: How the result is compensated; the data is not saved.
        pipeline: The passes that made it and that `apply` runs; None for the default ones.
        call: The call that made it, in words; empty where other code made it.
        report: What the plan removes and, after `apply`, what was proven; None for a plan that
            was loaded and not applied yet.
        work: The captured model that it was made for or applied to; not saved.
    """

    edits: list[Edit]
    inputs: Inputs | None
    keep: list[str]
    of: str
    asked: float
    verify: bool = True
    seed: int = 0
    released: list[str] = field(default_factory=list, repr=False)
    options: Options = field(default_factory=Options, repr=False)
    pipeline: Pipeline | None = None
    call: str = field(default="", repr=False)
    report: Report | None = None
    work: Work | None = field(default=None, repr=False)

    def __repr__(self) -> str:
        shrink = sum(e.keep is not None and len(e.keep) < e.size for e in self.groups)
        groups = f"{shrink} of {len(self.groups)} groups shrink"
        if self.report is None:
            return f"Plan({self.asked:.1%} of {self.of} to remove, {groups}; not applied yet)"
        return f"Plan({self.report.sentence()}; {groups})"

    def _repr_html_(self) -> str:
        """What the plan removes, for notebooks."""
        if self.report is None:
            kept = [e.size if e.keep is None else len(e.keep) for e in self.groups]
            rows = [(e.name, e.size, n) for e, n in zip(self.groups, kept, strict=True)]
            return heading(repr(self)) + table(("coupled group", "size", "kept"), rows)
        return self.report._repr_html_()

    @property
    def groups(self) -> list[Keep]:
        """The choice for every coupled group; `keep` may be changed, and counts when applied."""
        return [edit for edit in self.edits if isinstance(edit, Keep)]

    @property
    def kept(self) -> dict[str, list[Indices | None]]:
        """For each weight that shrinks, the indices kept in each dimension (None: all).

        Raises:
            GraphPruneError: The plan was loaded and not applied to a model yet.
        """
        work = self.live()
        self._retake(work)
        return {value.name: kept for value, kept in work.cuts.weights.items()}

    @undisturbed
    def apply(self, model: M | None = None, data: Any = None) -> M:
        """Make the smaller model.

        Args:
            model: A fresh instance of the same architecture, or None for the planned model.
                Neither is modified.
            data: Inputs to take the fresh instance's statistics from.

        Returns:
            A model of the same class wherever its code can express the new widths; the report
            names what was replaced by generated code.

        Raises:
            VerifyError: The result is not what it must be.
            PlanError: The plan does not fit this model, or was changed to what cannot be.
        """
        work = self._made(model, data)
        self._annotate(work)
        small = work.program.finish(work.expressed, work.lowered, self.verify)
        self._tell(work)
        if isinstance(small, nn.Module):
            remember(small, work)
        return small  # type: ignore[no-any-return]

    @undisturbed
    def write(self, path: str | Path) -> None:
        """Make the smaller model and write it: `.pt`, `.pt2` or `.onnx`.

        An ONNX file made of a module has its norms folded, and branches that are added merged.
        Files of ONNX models are written tensor by tensor, so that the whole is never in memory.

        Raises:
            GraphPruneError: The file cannot be written, or the format cannot hold the model.
        """
        suffixes = (".onnx",) if self.live().program.is_file else SUFFIXES
        target = check_target(path, suffixes)
        work = self._made(None, None)
        self._annotate(work)
        work.program.save(work.expressed, work.lowered, target, self.verify)
        if target.suffix == ".onnx" and not work.program.is_file:
            fold_file(target)
            from graphprune.frontends.onnx.notes import annotate_file  # importing it imports onnx

            annotate_file(target, self._notes(work))
        self._tell(work)
        _log.info("wrote %s", target)

    def _annotate(self, work: Work) -> None:
        """Let a file say what was done to it: in words, and as data that `load_plan` reads."""
        same = work.program is work.opened and not cut_by(self.edits, work.deps)
        if work.program.is_file and not (same and len(self.edits) == len(self.groups)):
            # What only goes at no cost must not make the file larger by what is told of it.
            free = any(step.name == Same.name for step in self.pipeline or ())
            asked = self.asked > 0 or not all(isinstance(edit, Keep) for edit in self.edits)
            larger = asked and not free
            work.program.annotate(work.lowered, self._notes(work), larger)

    def _notes(self, work: Work) -> dict[str, Any]:
        """What was done, in words and as data."""
        report = reported(work)
        rows = [replace(row, curve=[]) for row in report.groups]
        # Without times and what else differs from run to run: the same plan writes the same file.
        told = replace(report, groups=rows, passes=[], seconds={}, latency=None, call="")
        shrunk = [row for row in report.groups if row.kept < row.size]
        return {
            "version": __version__,
            "done": report.sentence(),
            "groups": "; ".join(f"{row.name}: {row.size} -> {row.kept}" for row in shrunk),
            "help": "graphprune.load_plan(path) and graphprune.report_of(path) read the rest",
            "plan": self.as_dict(),
            "report": told.as_dict(),
        }

    def _tell(self, work: Work) -> None:
        """Report what was made, and log it in a line."""
        self.report = reported(work)
        agreement = self.report.agreement
        found = "" if agreement is None else f"; {agreement.sentence()}"
        _log.info("made: %s%s", self.report.sentence(), found)

    def _made(self, model: M | None, data: Any) -> Work:
        """The work with the smaller model in it."""
        if model is not None:
            self.work = self._fitted(model, data)
        elif data is not None:
            work = self.live()
            most = self.options.samples() + UNSEEN
            read = work.program.read(given_data(data, work.program.model, self.inputs, most), most)
            passes = self.pipeline or DEFAULT
            batches, unseen = parted(read, work.program, self.options, passes)
            self.options = self.options.reading(batches)
            self.work = work.again(batches, self.options, unseen)
        work = self.live()
        work.asked.verify, work.asked.seed = self.verify, self.seed
        self._retake(work)
        (self.pipeline or DEFAULT).make(work)
        return work

    def _retake(self, work: Work) -> None:
        """Let edits that were changed by hand be what is applied."""
        wanted, present = cut_by(self.edits, work.deps), work.selection.keep
        if wanted.keys() != present.keys() or any(
            not np.array_equal(kept, present[axis]) for axis, kept in wanted.items()
        ):
            work.take(self.edits, self.asked, self.of)
        work.edits = list(self.edits)

    @undisturbed
    def save(self, path: str | Path) -> None:
        """Write the plan as JSON; the file is written whole or not at all.

        Raises:
            PlanError: It was changed to what cannot be.
            GraphPruneError: The file cannot be written, or is called as a model is.
        """
        target = check_target(path)
        if target.suffix in SUFFIXES:
            raise GraphPruneError(f"{target}: a plan is a .json file; write(path) writes a model")
        if self.work is not None:
            cut_by(self.edits, self.work.deps)
        write_whole(target, json.dumps(self.as_dict(), indent=1).encode())

    def as_dict(self) -> dict[str, Any]:
        """The plan as plain data."""
        return {
            "format": _FORMAT,
            "of": self.of,
            "ratio": self.asked,
            "keep": self.keep,
            "released": self.released,
            "compensate": self.options.compensate,
            "effort": self.options.effort,
            "seed": self.options.seed,
            "call": self.call,
            "inputs": None if self.inputs is None else describe(self.inputs),
            "passes": None if self.pipeline is None else self.pipeline.names(),
            "groups": [edit.as_dict() for edit in self.groups],
            "edits": [edit.as_dict() for edit in self.edits if not isinstance(edit, Keep)],
        }

    def live(self) -> Work:
        """The work on the captured model; an error where there is none."""
        if self.work is None:
            raise GraphPruneError("a loaded plan needs a model: plan.apply(model)")
        return self.work

    def _fitted(self, model: M, data: Any) -> Work:
        """Find what the plan changes in another instance of the model."""
        most, found = self.options.samples() + UNSEEN, given(model)
        try:
            opened = open_model(
                found, self.inputs, given_data(data, found, self.inputs, most), most
            )
        except LiftError as error:
            why = str(error).partition("\n")[0]  # what follows speaks of `example_inputs`
            called = model if isinstance(model, str | Path) else type(model).__name__
            raise PlanError(f"the plan does not fit {called}: {why}") from error
        passes = self.pipeline or DEFAULT
        batches, unseen = parted(opened.batches, opened.program, self.options, passes)
        if batches:
            self.options = self.options.reading(batches)
        asked = Asked(
            options=self.options, keep=self.keep, inputs=self.inputs, released=self.released,
            call=self.call,
        )  # fmt: skip
        work = worked(opened, asked, batches, unseen)
        passes.prepare(work)
        Pipeline(["couple"]).decide(work)
        if len(work.deps.groups) > len(self.groups):
            extra = work.deps.groups[len(self.groups)]
            raise PlanError(
                f"the plan was made for another model: it has {len(self.groups)} groups, this "
                f"{type(model).__name__} has {len(work.deps.groups)}; its group {extra.id} is "
                f"{extra.name} of {extra.size}"
            )
        work.take(self.edits, self.asked, self.of)
        work.pipeline = self.pipeline or DEFAULT
        return work


def made(work: Work) -> Plan[Any]:
    """The plan of some work that was decided."""
    program, asked = work.program, work.asked
    return Plan(
        edits=list(work.edits),
        inputs=program.given or program.inputs,
        keep=list(asked.keep),
        of=work.selection.of,
        asked=work.selection.asked,
        verify=asked.verify,
        seed=asked.seed,
        released=list(asked.released),
        options=asked.options,
        pipeline=None if work.pipeline is DEFAULT else work.pipeline,
        call=asked.call,
        report=reported(work),
        work=work,
    )

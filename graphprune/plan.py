"""Plans: made for a live model, or read from a file; they travel as JSON."""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from itertools import zip_longest
from pathlib import Path
from typing import Any, Generic, TypeVar

import numpy as np
from torch import nn

from graphprune.choice.select import Selection
from graphprune.compensation.calibration import Options
from graphprune.core.errors import GraphPruneError
from graphprune.core.files import write_whole
from graphprune.core.indices import Indices
from graphprune.core.program import Inputs
from graphprune.frontends.torch.inference import outside_inference_mode
from graphprune.frontends.torch.inputs import describe, restore
from graphprune.opening import opened, with_data
from graphprune.recalibration import remember
from graphprune.report.report import Report
from graphprune.session import Session

M = TypeVar("M")
_FORMAT = 1


@dataclass
class GroupChoice:
    """Which indices of a group stay; None for all."""

    name: str
    size: int
    keep: Indices | None


@dataclass
class Plan(Generic[M]):
    """Which indices of which groups stay: can be applied, saved, and applied again.

    Attributes:
        groups: The choice for every coupled group.
        inputs: Example inputs, positional and keyword.
        keep: Name patterns that were left as they are.
        of: The cost that `asked` speaks of.
        asked: The ratio asked for.
        verify: Whether `apply` checks its result.
        seed: For the check.
        options: How the result is compensated; the data is not saved.
        report: What the plan removes and, after `apply`, what was proven; None for a plan that
            was loaded and not applied yet.
        session: The captured model that it was made for or applied to; not saved.
    """

    groups: list[GroupChoice]
    inputs: Inputs | None
    keep: list[str]
    of: str
    asked: float
    verify: bool = True
    seed: int = 0
    options: Options = field(default_factory=Options, repr=False)
    report: Report | None = None
    session: Session | None = field(default=None, repr=False)

    @property
    def kept(self) -> dict[str, list[Indices | None]]:
        """For each weight that shrinks, the indices kept in each dimension (None: all).

        Raises:
            GraphPruneError: The plan was loaded and not applied to a model yet.
        """
        return {value.name: kept for value, kept in self.live().cuts.weights.items()}

    @outside_inference_mode
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
            GraphPruneError: The plan does not fit this model.
        """
        if data is not None:
            subject = self.live().program.model if model is None else model
            self.options, _ = with_data(self.options, data, subject)
        if model is not None:
            self.session = self._fitted(model)
        elif data is not None:
            self.session = self.live().recalibrated(self.options)
        session = self.live()
        small, self.report = session.finish(self.verify, self.seed, self.of)
        if isinstance(small, nn.Module):
            remember(small, session)
        return small  # type: ignore[no-any-return]

    @outside_inference_mode
    def write(self, path: str | Path) -> None:
        """Make the smaller model and write it: `.pt`, `.pt2` or `.onnx`.

        An ONNX file is written piece by piece, so that it may be larger than memory.

        Raises:
            VerifyError: The result is not what it must be.
            GraphPruneError: The format cannot hold the model, or the file cannot be written.
        """
        self.report = self.live().write(Path(path), self.verify, self.seed, self.of)

    def save(self, path: str | Path) -> None:
        """Write the plan as JSON; the file is written whole or not at all."""
        write_whole(path, json.dumps(self.as_dict(), indent=1).encode())

    def as_dict(self) -> dict[str, Any]:
        """The plan as plain data."""
        return {
            "format": _FORMAT,
            "of": self.of,
            "ratio": self.asked,
            "keep": self.keep,
            "compensate": self.options.compensate,
            "effort": self.options.effort,
            "inputs": None if self.inputs is None else describe(self.inputs),
            "groups": [
                {
                    "name": group.name,
                    "size": group.size,
                    "keep": None if group.keep is None else group.keep.tolist(),
                }
                for group in self.groups
            ],
        }

    def live(self) -> Session:
        """The session; an error where there is none."""
        if self.session is None:
            raise GraphPruneError("a loaded plan needs a model: plan.apply(model)")
        return self.session

    def _fitted(self, model: M) -> Session:
        """Find the plan's groups in another instance of the model."""
        session = opened(model, self.inputs, self.keep, self.options)
        deps = session.deps
        for i, (group, found) in enumerate(zip_longest(self.groups, deps.groups)):
            planned = None if group is None else (group.name, group.size)
            present = None if found is None else (found.name, found.size)
            if planned != present:
                raise GraphPruneError(
                    f"the plan was made for another model: its group {i} is {planned}, this "
                    f"{type(model).__name__} has {present}"
                )
        keep = {
            found.axis: group.keep
            for group, found in zip(self.groups, deps.groups, strict=True)
            if group.keep is not None
        }
        session.take(Selection(keep, self.asked, self.asked, 1))
        return session


def load_plan(path: str | Path) -> Plan[Any]:
    """Read a plan that `Plan.save` wrote.

    Raises:
        GraphPruneError: The file is not a plan; the message says why.
    """
    try:
        data = json.loads(Path(path).read_text(encoding="utf-8"))
        if data["format"] != _FORMAT:
            raise GraphPruneError(
                f"{path} is a plan of format {data['format']}; this version reads {_FORMAT}"
            )
        groups = [
            GroupChoice(
                g["name"], g["size"], None if g["keep"] is None else np.asarray(g["keep"], np.int64)
            )
            for g in data["groups"]
        ]
        inputs = None if data["inputs"] is None else restore(data["inputs"])
        options = Options(data.get("compensate", "auto"), data.get("effort", "auto"))
        return Plan(groups, inputs, data["keep"], data["of"], data["ratio"], options=options)
    except OSError as error:
        raise GraphPruneError(f"cannot read {path}: {error.strerror}") from error
    except (ValueError, KeyError, TypeError) as error:
        raise GraphPruneError(f"{path} is not a graphprune plan: {error}") from error

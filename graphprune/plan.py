"""The public face: `shrink`, `plan`, `analyze`, and plans that travel as JSON."""

from __future__ import annotations

import json
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass, field, replace
from itertools import zip_longest
from pathlib import Path
from typing import Any, Generic, TypeVar

import numpy as np
from torch import nn

from graphprune.calibration import Calibration, Options
from graphprune.cost import COSTS
from graphprune.dependencies import Dependencies
from graphprune.errors import GraphPruneError
from graphprune.files import write_whole
from graphprune.frontends.inputs import describe, find_inputs, restore
from graphprune.frontends.torch import Inputs, TorchProgram, as_inputs, check, lift
from graphprune.importance import Criterion
from graphprune.indices import Indices
from graphprune.passes.couple import couple
from graphprune.passes.score import score
from graphprune.passes.select import Selection
from graphprune.recalibration import remember
from graphprune.report import Report
from graphprune.session import Request, Session, timed

M = TypeVar("M", bound=nn.Module)
Keep = Collection["str | type[nn.Module]"]
_FORMAT = 1


def shrink(model: M, ratio: float = 0.5, of: str = "params", **options: Any) -> M:
    """Return a smaller dense model of the same kind.

    Args:
        model: The model; it is not modified.
        ratio: Fraction of the cost to remove, in [0, 1).
        of: The cost: `"params"`, `"macs"` or `"channels"`.
        **options: As for `plan`.

    Returns:
        A model of the same class, in the same train/eval mode, on the same device.

    Raises:
        BudgetError: The ratio cannot be reached, or is too small to remove anything.
        LiftError: The model cannot be captured.
        VerifyError: The result is not what it must be.

    Example:
        >>> from torch import nn
        >>> net = nn.Sequential(nn.Linear(8, 16), nn.ReLU(), nn.Linear(16, 4))
        >>> shrink(net, ratio=0.5)[0]
        Linear(in_features=8, out_features=8, bias=True)
    """
    return plan(model, ratio, of, **options).apply()


def plan(
    model: M,
    ratio: float = 0.5,
    of: str = "params",
    *,
    example_inputs: Any = None,
    data: Iterable[Any] | None = None,
    importance: str | Criterion = "auto",
    allocation: str = "auto",
    keep: Keep = (),
    ratios: Mapping[str, float] | None = None,
    round_to: int | str = "auto",
    compensate: bool | str = "auto",
    effort: str = "auto",
    verify: bool = True,
    seed: int = 0,
) -> Plan[M]:
    """Decide what to remove.

    Args:
        model: The model; it is not modified.
        ratio: Fraction of the cost to remove, in [0, 1).
        of: The cost: `"params"`, `"macs"` or `"channels"`.
        example_inputs: A tensor, a tuple of positional arguments or a dict of keyword
            arguments for `forward`; found from the model where not given.
        data: Inputs to take statistics from: any iterable of batches; labels are not needed. If
            there are none, inputs are made from what the weights remember.
        importance: `"l2"`, `"l1"`, `"random"`, or a function `(weight, dim) -> scores`.
            `"auto"`: what the removal costs after compensation; without, `"l2"`.
        allocation: `"auto"`, `"uniform"` (the same fraction of every group) or `"global"`
            (scores relative to their group's mean decide).
        keep: What to leave as it is: name patterns of layers or weights, or module types.
        ratios: Fraction of channels to remove from certain layers, by name pattern.
        round_to: Kept widths become multiples of this; `"auto"` takes the largest of 8, 4, 2, 1
            that meets the budget.
        compensate: Whether the weights that stay make up for what is removed; `"auto"`: unless
            the model looks untrained.
        effort: How long that may take: `"fast"`, `"balanced"`, `"best"`; `"auto"` is balanced where
            that takes less than two minutes.
        verify: Whether `apply` checks its result.
        seed: For `importance="random"` and for the perturbations of the check.

    Raises:
        BudgetError: The ratio cannot be reached, or is too small to remove anything.
        LiftError: The model cannot be captured, or no inputs for it can be found.
    """
    _check_request(ratio, of, round_to)
    options = Options(compensate, effort, data, seed)
    program, deps, seconds = _analyzed(model, as_inputs(example_inputs), keep)
    calibration = Calibration(program, deps, options)
    session = Session(program, deps, seconds, calibration)
    levels = None
    if importance == "auto" and ratio > 0:
        levels = timed(seconds, "calibrate", calibration.levels)
    if levels is None:
        criterion = "l2" if importance == "auto" else importance
        levels = timed(seconds, "score", score, deps, criterion, seed)
    elif allocation == "auto":
        allocation = "loss"
    session.decide(Request(ratio, of, allocation, ratios or {}, round_to), levels)
    keep_ = session.selection.keep
    made: Plan[M] = Plan(
        groups=[GroupChoice(g.name, g.size, keep_.get(g.axis)) for g in deps.groups],
        inputs=program.inputs,
        keep=_patterns(model, keep),
        of=of,
        asked=ratio,
        verify=verify,
        seed=seed,
        options=options,
    )
    made._live = session
    made.report = session.report(of)
    return made


def analyze(model: nn.Module, example_inputs: Any = None, keep: Keep = ()) -> Dependencies:
    """Find the coupled groups of a model.

    Args:
        model: The model; it is not modified.
        example_inputs: As for `plan`.
        keep: As for `plan`.

    Returns:
        Groups, locks with reasons, a networkx graph of the couplings, and `why(a, b)`.
    """
    return _analyzed(model, as_inputs(example_inputs), keep)[1]


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
    _live: Session | None = field(default=None, repr=False)

    @property
    def kept(self) -> dict[str, list[Indices | None]]:
        """For each weight that shrinks, the indices kept in each dimension (None: all).

        Raises:
            GraphPruneError: The plan was loaded and not applied to a model yet.
        """
        return {value.name: kept for value, kept in self._session().cuts.weights.items()}

    def apply(self, model: M | None = None, data: Iterable[Any] | None = None) -> M:
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
            self.options = replace(self.options, data=data)
        if model is not None:
            self._live = self._fitted(model)
        elif data is not None:
            self._live = self._session().recalibrated(self.options)
        session = self._session()
        lowered, verification = session.lowered(self.verify, self.seed)
        remember(lowered.model, session)
        self.report = session.report(self.of)
        self.report.verification = verification
        self.report.kept_class = "" not in lowered.replaced
        self.report.replaced = lowered.replaced
        self.report.edits = lowered.edits
        self.report.folded = [fold.weight.name for fold in lowered.folds]
        return lowered.model  # type: ignore[return-value]

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

    def _session(self) -> Session:
        if self._live is None:
            raise GraphPruneError("a loaded plan needs a model: plan.apply(model)")
        return self._live

    def _fitted(self, model: M) -> Session:
        """Find the plan's groups in another instance of the model."""
        program, deps, seconds = _analyzed(model, self.inputs, self.keep)
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
        session = Session(program, deps, seconds, Calibration(program, deps, self.options))
        session.take(Selection(keep, self.asked, self.asked, 1))
        return session


def load_plan(path: str | Path) -> Plan[nn.Module]:
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


def _check_request(ratio: float, of: str, round_to: int | str) -> None:
    if isinstance(ratio, bool) or not isinstance(ratio, int | float) or not 0 <= ratio < 1:
        raise GraphPruneError(f"ratio is the fraction to remove, 0 <= ratio < 1, not {ratio!r}")
    if of not in COSTS:
        raise GraphPruneError(f"no cost {of!r}: choose from {', '.join(COSTS)}")
    if round_to != "auto" and (not isinstance(round_to, int) or round_to < 1):
        raise GraphPruneError(f"round_to is a positive integer or 'auto', not {round_to!r}")


def _analyzed(
    model: nn.Module, inputs: Inputs | None, keep: Keep
) -> tuple[TorchProgram, Dependencies, dict[str, float]]:
    if not isinstance(model, nn.Module):
        raise GraphPruneError(f"a torch.nn.Module is needed, not a {type(model).__name__}")
    check(model)
    inputs = find_inputs(model) if inputs is None else inputs
    seconds: dict[str, float] = {}
    program = timed(seconds, "capture", lift, model, inputs)
    deps = timed(seconds, "couple", couple, program.graph, _patterns(model, keep))
    return program, deps, seconds


def _patterns(model: nn.Module, keep: Keep) -> list[str]:
    """Name patterns, module types replaced by the names of such modules."""
    out: list[str] = []
    for item in [keep] if isinstance(keep, str | type) else keep:
        if isinstance(item, str):
            out.append(item)
            continue
        found = [
            name
            for name, module in model.named_modules()
            if isinstance(module, item) and any(True for _ in module.parameters())
        ]
        if not found:
            raise GraphPruneError(f"keep: the model has no {item.__name__} with parameters")
        out += found
    return out

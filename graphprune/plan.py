"""The public face: `shrink`, `plan`, `analyze`, and plans that travel as JSON."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from itertools import zip_longest
from pathlib import Path
from typing import Any, Generic, TypeVar

import numpy as np
from torch import nn

from graphprune.batches import Batch, inputs_of
from graphprune.calibration import Options
from graphprune.dependencies import Dependencies
from graphprune.errors import GraphPruneError
from graphprune.files import write_whole
from graphprune.frontends.inputs import as_inputs, describe, restore
from graphprune.frontends.torch import Inputs
from graphprune.frontends.wrapped import unwrapped
from graphprune.importance import Context, Criterion, Loss
from graphprune.indices import Indices
from graphprune.latency import meet
from graphprune.opening import Keep, as_module, opened, patterns, with_data
from graphprune.passes.select import Selection
from graphprune.recalibration import remember
from graphprune.report import Report
from graphprune.request import Limits, requested
from graphprune.session import Session

M = TypeVar("M")
_FORMAT = 1


def shrink(
    model: M, ratio: float | None = None, of: str = "params", *, steps: int = 1, **options: Any
) -> M:
    """Return a smaller dense model of the same kind.

    Args:
        model: The model; it is not modified.
        ratio: Fraction of the cost to remove, in [0, 1); a half where nothing else decides.
        of: The cost, as for `plan`.
        steps: In how many steps. With several, `schedule` (`"polynomial"`, `"linear"`,
            `"exponential"`), `initial_ratio`, `callback(model, step)` for fine-tuning after each
            step, and `state`, a file to go on from, may be given too.
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
    if steps != 1 or options.keys() & {"schedule", "initial_ratio", "callback", "state"}:
        from graphprune.iterative import shrink_in_steps

        module = as_module(model, "several steps")
        return shrink_in_steps(module, ratio, of, steps=steps, **options)  # type: ignore[return-value]
    return plan(model, ratio, of, **options).apply()


def plan(
    model: M,
    ratio: float | None = None,
    of: str = "params",
    *,
    example_inputs: Any = None,
    data: Any = None,
    importance: str | Criterion = "auto",
    loss: Loss | None = None,
    reduction: str = "sum",
    normalize: str = "mean",
    allocation: str = "auto",
    keep: Keep = (),
    ratios: Mapping[str, float] | None = None,
    limits: Limits | None = None,
    budget: Mapping[str, float] | None = None,
    round_to: int | str = "auto",
    compensate: bool | str = "auto",
    effort: str = "auto",
    backend: str = "auto",
    verify: bool = True,
    seed: int = 0,
) -> Plan[M]:
    """Decide what to remove.

    Args:
        model: The model; it is not modified.
        ratio: Fraction of the cost to remove, in [0, 1); a half where nothing else decides.
        of: The cost: `"params"`, `"macs"`, `"channels"`, `"memory"` (peak of the activations)
            or `"latency"` (measured on this machine).
        example_inputs: A tensor, a tuple of positional arguments or a dict of keyword
            arguments for `forward`; found from the data or the model where not given.
        data: Calibration data: batches of inputs, or of (inputs, labels); see `read_batches`. If
            there are none, statistics come from inputs that are made from what weights remember.
        importance: Name of a criterion (`graphprune.importance.CRITERIA`), or a function
            `(weight, dim) -> scores`. `"obs"`: what the removal costs after compensation;
            `"auto"`: the same, which then decides on every group's share too; without, `"l2"`.
        loss: For criteria that follow gradients: a function (output, labels) -> scalar;
            cross-entropy on the labels where not given.
        reduction: How what the members of a group contribute becomes one score: `"sum"`,
            `"mean"`, `"max"` or `"first"`.
        normalize: What makes the scores of different groups comparable, for `"global"` and
            `"isomorphic"`: `"mean"`, `"none"`, `"lamp"` or `"gaussian"`.
        allocation: `"auto"`, `"uniform"` (the same fraction of every group), `"global"` (scores
            decide), `"isomorphic"` (scores decide among groups of equal topology) or `"erk"`.
        keep: What to leave as it is: name patterns of layers or weights, or module types.
        ratios: Fraction of channels to remove from certain layers, by name pattern.
        limits: What groups keep at least, or at least and at most, by name pattern: whole
            numbers count channels, others are fractions.
        budget: Several costs at once with the fraction to remove of each, at least.
        round_to: Kept widths become multiples of this; `"auto"` takes the largest of 8, 4, 2, 1
            that meets the budget.
        compensate: Whether the weights that stay make up for what is removed; `"auto"`: unless
            the model looks untrained.
        effort: How long that may take: `"fast"`, `"balanced"`, `"best"`; `"auto"` is balanced where
            that takes less than two minutes.
        backend: For `"latency"`: `"eager"` or `"compiled"` PyTorch, or `"onnxruntime"`; `"auto"` is
            eager, and ONNX Runtime for ONNX models.
        verify: Whether `apply` checks its result.
        seed: For whatever a criterion draws and for the perturbations of the check.

    Raises:
        BudgetError: The ratio cannot be reached, or is too small to remove anything.
        LiftError: The model cannot be captured, or no inputs for it can be found.
    """
    request = requested(
        ratio, of, importance, round_to, budget,
        allocation=allocation, ratios=ratios, limits=limits, normalize=normalize, backend=backend,
    )  # fmt: skip
    options = Options(compensate, effort, seed=seed)
    wrapped = unwrapped(model)
    inner = wrapped.model
    batches: list[Batch] = []
    if data is not None:
        options, batches = with_data(options, data, inner)
    inputs = as_inputs(example_inputs) or (
        inputs_of(as_module(inner), batches) if batches else None
    )
    session = opened(wrapped, inputs, keep, options)
    deps = session.deps
    batches = batches or list(session.batches)
    options = session.calibration.options if session.calibration else options
    module = inner if isinstance(inner, nn.Module) else None
    context = Context(deps, module, session.program.inputs, batches, loss, seed)
    scores, request = session.scored(importance, request, context, reduction)
    if "latency" in request.asked():
        meet(session, request, scores, as_inputs(example_inputs))
    else:
        session.decide(request, scores)
    keep_ = session.selection.keep
    made: Plan[M] = Plan(
        groups=[GroupChoice(g.name, g.size, keep_.get(g.axis)) for g in deps.groups],
        inputs=session.program.given or session.program.inputs,
        keep=patterns(inner, keep),
        of=session.selection.of,
        asked=session.selection.asked,
        verify=verify,
        seed=seed,
        options=options,
    )
    made._live = session
    made.report = session.report(made.of)
    return made


def analyze(model: Any, example_inputs: Any = None, keep: Keep = ()) -> Dependencies:
    """Find the coupled groups of a model.

    Args:
        model: The model; it is not modified.
        example_inputs: As for `plan`.
        keep: As for `plan`.

    Returns:
        Groups, locks with reasons, a networkx graph of the couplings, and `why(a, b)`.
    """
    return opened(model, as_inputs(example_inputs), keep).deps


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
            subject = self._session().program.model if model is None else model
            self.options, _ = with_data(self.options, data, subject)
        if model is not None:
            self._live = self._fitted(model)
        elif data is not None:
            self._live = self._session().recalibrated(self.options)
        session = self._session()
        small, self.report = session.finish(self.verify, self.seed, self.of)
        if isinstance(small, nn.Module):
            remember(small, session)
        return small  # type: ignore[no-any-return]

    def write(self, path: str | Path) -> None:
        """Make the smaller model and write it: `.pt`, `.pt2` or `.onnx`.

        An ONNX file is written piece by piece, so that it may be larger than memory.

        Raises:
            VerifyError: The result is not what it must be.
            GraphPruneError: The format cannot hold the model, or the file cannot be written.
        """
        self.report = self._session().write(Path(path), self.verify, self.seed, self.of)

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

"""The public face: `shrink`, `plan` and `analyze`."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, TypeVar

from torch import nn

from graphprune.aim import meet
from graphprune.choice.request import Limits, requested
from graphprune.compensation.calibration import Options
from graphprune.core.batch import Batch
from graphprune.core.groups import Dependencies
from graphprune.frontends.torch.inference import outside_inference_mode
from graphprune.frontends.torch.inputs import as_inputs
from graphprune.frontends.torch.wrapped import unwrapped
from graphprune.importance import Context, Criterion, Loss
from graphprune.opening import Keep, as_module, opened, patterns, with_data
from graphprune.plan import GroupChoice, Plan
from graphprune.statistics.batches import inputs_of

M = TypeVar("M")


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


@outside_inference_mode
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
    context = Context(deps, module, session.example(), batches, loss, seed)
    context.replay = session.program.replayed
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
    made.session = session
    made.report = session.report(made.of)
    return made


@outside_inference_mode
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

"""The public face: `shrink`, `sparsify`, their plans, and `analyze`."""

from __future__ import annotations

from typing import Any, TypeVar

from typing_extensions import Unpack

from graphprune.compacting import CompactOptions, compacted
from graphprune.core.groups import Dependencies
from graphprune.core.within import Mask
from graphprune.costs.registry import Counting
from graphprune.factoring import FactorOptions, factored
from graphprune.frontends.torch.inference import undisturbed
from graphprune.frontends.torch.sparse import check_form, formed
from graphprune.iterative import STEP_OPTIONS, shrink_in_steps
from graphprune.options import PlanOptions, ShrinkOptions, SparsifyOptions, check_options
from graphprune.planning import analyzed, planned, planned_sparse
from graphprune.plans import Plan, made

M = TypeVar("M")


def shrink(
    model: M,
    ratio: float | None = None,
    of: str | Counting = "params",
    **options: Unpack[ShrinkOptions],
) -> M:
    """Return a smaller dense model of the same kind.

    Args:
        model: The model; it is not modified.
        ratio: Fraction of the cost to remove, in [0, 1); a half where nothing else decides.
        of: The cost, as for `plan`.
        **options: As for `plan`. With `steps` of more than one, the model shrinks step by step:
            `schedule` (`"polynomial"`, `"linear"`, `"exponential"`), `initial_ratio`,
            `callback(model, step)` for fine-tuning after each step, `state`, a file to go on
            from, and `log`, a writer such as TensorBoard's, may be given too.

    Returns:
        A model of the same class, in the same train/eval mode, on the same device.

    Raises:
        OptionError: There is no such option; names the nearest one.
        BudgetError: The ratio cannot be reached, or is too small to remove anything.
        LiftError: The model cannot be captured.
        VerifyError: The result is not what it must be.

    Examples:
        >>> from torch import nn
        >>> net = nn.Sequential(nn.Linear(8, 16), nn.ReLU(), nn.Linear(16, 4))
        >>> shrink(net, ratio=0.5)[0]
        Linear(in_features=8, out_features=8, bias=True)
    """
    check_options(options, ShrinkOptions, "shrink")
    given: dict[str, Any] = dict(options)
    steps = given.pop("steps", 1)
    if steps != 1 or given.keys() & STEP_OPTIONS:
        small: M = shrink_in_steps(model, ratio, of, steps=steps, **given)
        return small
    return plan(model, ratio, of, **given).apply()


def compact(model: M, **options: Unpack[CompactOptions]) -> M:
    """Return a smaller model of the same kind with the same outputs.

    What changes no output goes: channels that masks or training have set to zero, channels that are
    one number for every input, channels that no one reads. What was decided is in the report of
    `plan(model, passes=COMPACT)`, which decides the same.

    Args:
        model: The model; it is not modified.
        **options: The following, by name, as for `plan`.

            - `example_inputs`: Inputs for `forward`; found from the model where not given.
            - `keep`: What to leave as it is.
            - `assume`: `"statistics"`: what batch norms make stays within six times their gain, so
              that channels go which a ReLU is dead on; `"data"`: no input takes a channel further
              than those in `data`. Nothing is assumed where not given; the report names it.
            - `data`: Inputs, for `assume="data"`.
            - `verify`: Whether the result is held against the given model.
            - `seed`: For whatever is drawn.

    Returns:
        A model of the same class, in the same train/eval mode, on the same device; a copy of the
        given one where nothing can go.

    Raises:
        OptionError: There is no such option; names the nearest one.
        LiftError: The model cannot be captured.
        VerifyError: The result is not what it must be.

    Examples:
        >>> import torch
        >>> from torch import nn
        >>> net = nn.Sequential(nn.Linear(8, 16), nn.ReLU(), nn.Linear(16, 4))
        >>> _ = nn.utils.prune.ln_structured(net[0], "weight", 0.5, 2, dim=0)
        >>> net[0].bias.data[net[0].weight_mask[:, 0] == 0] = 0
        >>> compact(net)[0]
        Linear(in_features=8, out_features=8, bias=True)
    """
    small: M = compacted(model, options).apply()
    return small


def factor(
    model: M,
    ratio: float | None = None,
    of: str | Counting = "params",
    **options: Unpack[FactorOptions],
) -> M:
    """Return a smaller model in which two layers in a row stand for one, wherever that costs less.

    A linear layer or a convolution of m inputs and n outputs becomes one of r outputs and one of r
    inputs, r (m + n) < m n. No channel goes. `plan(model, ratio, passes=FACTOR)` decides the same
    and has the report.

    Args:
        model: The model; it is not modified.
        ratio: Fraction of the cost to remove, in [0, 1); a half where nothing else decides.
        of: The cost: `"params"` or `"macs"`.
        **options: The following, by name, as for `plan`.

            - `budget`: Several costs at once with the fraction to remove of each, at least.
            - `limits`: The least, or the least and the most, channels between two layers, by name
              pattern.
            - `round_to`: These numbers of channels are multiples of this.
            - `keep`: What to leave as it is.
            - `example_inputs`, `data`, `compensate`, `effort`, `verify`, `seed`: As for `plan`.

    Returns:
        A model of the same class, in the same train/eval mode, on the same device, with an
        `nn.Sequential` of two layers in place of some; in an ONNX file, with two nodes.

    Raises:
        OptionError: There is no such option; names the nearest one.
        BudgetError: The ratio cannot be reached, or no layer can become two.
        LiftError: The model cannot be captured.
        VerifyError: The result is not what it must be.

    Examples:
        >>> from torch import nn
        >>> net = nn.Sequential(nn.Linear(64, 128), nn.ReLU(), nn.Linear(128, 64))
        >>> [type(layer).__name__ for layer in factor(net, 0.5, compensate=False)[0]]
        ['Linear', 'Linear']
    """
    small: M = factored(model, ratio, of, options).apply()
    return small


@undisturbed
def plan(
    model: M,
    ratio: float | None = None,
    of: str | Counting = "params",
    **options: Unpack[PlanOptions],
) -> Plan[M]:
    """Decide what to remove.

    Args:
        model: The model; it is not modified.
        ratio: Fraction of the cost to remove, in [0, 1); a half where nothing else decides.
        of: The cost: `"params"`, `"macs"`, `"channels"`, `"memory"` (peak of the activations),
            `"latency"` (measured on this machine), or one registered by `@cost`: its name or the
            function itself.
        **options: The following, by name.

            How much goes, and where:

            - `allocation`: `"auto"`, `"uniform"` (the same fraction of every group), `"global"`
              (scores decide), `"isomorphic"` (scores decide among groups of equal topology) or
              `"erk"`.
            - `normalize`: What makes the scores of different groups comparable, for `"global"` and
              `"isomorphic"`: `"mean"`, `"none"`, `"lamp"` or `"gaussian"`.
            - `ratios`: Fraction of channels to remove from certain layers, by name pattern, module
              or type of module. Without a ratio or a budget, nothing else goes.
            - `limits`: What groups keep at least, or at least and at most, by name pattern or
              module: whole numbers count channels, others are fractions.
            - `budget`: Several costs at once with the fraction to remove of each, at least.
            - `round_to`: Every kept width is a multiple of this, or stays whole; `"auto"` takes the
              largest of 8, 4, 2, 1 that meets the budget, for groups at least four times as wide.
            - `keep`: What to leave as it is: name patterns of layers or weights, modules or
              weights of the model, or types of modules.
            - `backend`: For `"latency"`: `"eager"` or `"compiled"` PyTorch, or `"onnxruntime"`;
              `"auto"` is eager, and ONNX Runtime for ONNX models.

            What counts as important:

            - `importance`: Name of a criterion, or a function `(weight, dim) -> scores`. `"obs"`:
              what the removal costs after compensation; `"auto"`: the same, which then decides on
              every group's share too; without statistics, `"l2"`.
            - `loss`: For criteria that follow gradients: a function (output, labels) -> scalar;
              cross-entropy on the labels where not given.
            - `reduction`: How what the members of a group contribute becomes one score: `"sum"`,
              `"mean"`, `"max"` or `"first"`.

            How it is made up for, and checked:

            - `example_inputs`: A tensor, a tuple of positional arguments or a dict of keyword
              arguments for `forward`; found from the data or the model where not given.
            - `data`: Calibration data: batches of inputs, or of (inputs, labels); or a file
              (`.npy`, `.npz`, `.pt`), a folder of pictures, or `"pkg.mod:factory"`. If there are
              none, statistics come from inputs that are made from what weights remember.
            - `compensate`: Whether the weights that stay make up for what is removed; `"auto"`:
              unless the model looks untrained.
            - `effort`: How long that may take: `"fast"`, `"balanced"`, `"best"`; `"auto"` is
              as balanced, within a minute or so; a number: seconds it may take.
            - `verify`: Whether `apply` checks its result.
            - `seed`: For whatever is drawn.
            - `passes`: Other passes than the default ones, in order: a `Pipeline`, or passes and
              their names.

    Returns:
        What goes, with its report; `apply` makes the smaller model.

    Raises:
        OptionError: There is no such option; names the nearest one.
        BudgetError: The ratio cannot be reached, or is too small to remove anything.
        LiftError: The model cannot be captured, or no inputs for it can be found.

    Examples:
        >>> from torch import nn
        >>> net = nn.Sequential(nn.Linear(8, 16), nn.ReLU(), nn.Linear(16, 4))
        >>> found = plan(net, 0.5)
        >>> len(found.kept["0.weight"][0]), found.apply()[2].in_features
        (8, 8)
    """
    check_options(options, PlanOptions, "plan")
    return made(planned(model, ratio, of, options))


def sparsify(
    model: M,
    ratio: float | None = None,
    pattern: str = "unstructured",
    form: str = "zeros",
    **options: Unpack[SparsifyOptions],
) -> M:
    """Return a model of the same kind, numbers of whose weights are zero.

    A model full of zeros is no faster without kernels for sparse matrices, and no smaller until
    it is compressed; `shrink` makes it both.

    Args:
        model: The model; it is not modified.
        ratio: As for `plan_sparsity`.
        pattern: As for `plan_sparsity`.
        form: What the zeros are stored as: `"zeros"`; `"masks"` of `torch.nn.utils.prune`, which
            stay in training; `"semi_structured"`, PyTorch's 2:4 tensors, on a device that has
            kernels for them.
        **options: As for `plan_sparsity`.

    Returns:
        A model of the same class, in the same train/eval mode, on the same device.

    Raises:
        OptionError: There is no such option; names the nearest one.
        BudgetError: No layer can become sparse, or not by so much.
        LiftError: The model cannot be captured.

    Examples:
        >>> from torch import nn
        >>> net = nn.Sequential(nn.Linear(8, 16), nn.ReLU(), nn.Linear(16, 4))
        >>> thin = sparsify(net, ratio=0.5, compensate=False)
        >>> sum(int((thin[i].weight == 0).sum()) for i in (0, 2))  # of 128 and 64
        96
    """
    check_form(model, form, pattern)
    made = plan_sparsity(model, ratio, pattern, **options)
    small = made.apply()
    return formed(small, form, [edit for edit in made.edits if isinstance(edit, Mask)])


@undisturbed
def plan_sparsity(
    model: M,
    ratio: float | None = None,
    pattern: str = "unstructured",
    **options: Unpack[SparsifyOptions],
) -> Plan[M]:
    """Decide which numbers become zero.

    The zeros are counted over the weights of linear layers, convolutions and recurrent layers.
    Tables of embeddings stay as they are, and so do the layers that read the model's inputs or
    write its outputs, unless these hold most of the numbers; `keep` says otherwise.

    Args:
        model: The model; it is not modified.
        ratio: Fraction of the numbers of those layers that becomes zero; what the pattern says, or
            a half, where not given.
        pattern: How zeros may lie: `"unstructured"`; `"N:M"`, such as `"2:4"`: of every M
            numbers side by side along the channels, N stay; `"block:HxW"`, such as `"block:4x4"`:
            H outputs by W channels go together.
        **options: The following, by name.

            - `importance`: `"magnitude"`; `"wanda"`: |w| times the norm of what it is multiplied
              with, row by row; `"obs"`: what the others can make up for, chosen and solved for
              together; `"random"`; `"auto"`: `"obs"`, or the magnitude without statistics.
            - `spread`: How zeros are spread over the layers: `"uniform"`, `"global"`, `"lamp"`,
              `"erk"`, or `"loss"`: by what the results lose; `"auto"` goes with the criterion.
            - `keep`: What stays as it is in place of the usual layers: name patterns of layers or
              weights, modules, or types of modules; `()` for nothing.
            - `example_inputs`, `data`, `effort`, `verify`, `seed`: As for `plan`.
            - `compensate`: Whether the numbers that stay make up for the zeros; `"auto"`: unless
              the model looks untrained.

    Returns:
        What becomes zero, with its report; `apply` makes the model.

    Raises:
        OptionError: There is no such option; names the nearest one.
        BudgetError: No layer can become sparse, or not by so much.
        LiftError: The model cannot be captured, or no inputs for it can be found.

    Examples:
        >>> from torch import nn
        >>> net = nn.Sequential(nn.Linear(8, 16), nn.ReLU(), nn.Linear(16, 4))
        >>> thin = plan_sparsity(net, pattern="2:4", compensate=False).apply()
        >>> int((thin[0].weight[0] == 0).sum())  # of 8
        4
    """
    return made(planned_sparse(model, ratio, pattern, options))


@undisturbed
def analyze(model: Any, example_inputs: Any = None, keep: Any = ()) -> Dependencies:
    """Find the coupled groups of a model.

    Args:
        model: The model; it is not modified.
        example_inputs: As for `plan`.
        keep: As for `plan`.

    Returns:
        Groups, locks with reasons, a networkx graph of the couplings, and `why(a, b)`.

    Raises:
        LiftError: The model cannot be captured, or no inputs for it can be found.

    Examples:
        >>> from torch import nn
        >>> net = nn.Sequential(nn.Linear(8, 16), nn.ReLU(), nn.Linear(16, 4))
        >>> [(group.name, group.size) for group in analyze(net).groups]
        [('0.weight[0]', 16)]
    """
    return analyzed(model, example_inputs, keep)

"""Criteria that follow gradients: of a loss on the caller's data, or of the network's own flow.

The module runs on detached copies of its parameters (no copy of memory), so that neither it nor
its gradients, statistics and modes change, whatever interrupts the work.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import torch
import torch.nn.functional as F
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils import _pytree as pytree

from graphprune.core.batch import Batch
from graphprune.core.errors import GraphPruneError, named_line
from graphprune.core.graph import Value
from graphprune.core.progress import tracked
from graphprune.engine.state import preserved
from graphprune.importance.constants import HESSIAN_PROBES
from graphprune.importance.context import Context, Parts, by_slice, summing
from graphprune.importance.kernels import SIGNED
from graphprune.importance.registry import criterion

Tensors = dict[Value, torch.Tensor]

_IGNORED = -100  # PyTorch's ignore_index: cross-entropy leaves these labels out


@criterion("taylor")
def taylor(context: Context) -> Parts:
    """First-order Taylor expansion (Molchanov et al., Importance Estimation, CVPR 2019).

    The squared change of the loss when a slice is zeroed, (Σ g·w)², averaged over batches.
    """
    parts: Parts = []
    count = 0
    with _runs(context) as run:
        for batch in _batches(context):
            changes = {v: g.mul_(run.weights[v].detach()) for v, g in run.gradients(batch).items()}
            found = by_slice(context.deps, summing(SIGNED), changes)
            squares = [[change**2 for change in held] for held in found]
            parts = _added(parts, squares)
            count += 1
    return [[total / count for total in held] for held in parts]


@criterion("snip")
def snip(context: Context) -> Parts:
    """Connection sensitivity |g·w| (Lee et al., SNIP, ICLR 2019); serves before training too."""
    return by_slice(context.deps, summing(SIGNED), sensitivities(context))


def sensitivities(context: Context) -> Tensors:
    """SNIP's |g·w| of every single weight, g the gradient of the mean loss."""
    with _runs(context) as run:
        gradients = _mean_gradients(context, run)
        return {v: g.mul_(run.weights[v].detach()).abs_() for v, g in gradients.items()}


@criterion("fisher")
def fisher(context: Context) -> Parts:
    """Empirical Fisher information ½·E[(g·w)²] over single samples.

    Theis et al., Faster Gaze Prediction with Dense Networks and Fisher Pruning, 2018: the diagonal
    of the Fisher information stands for that of the Hessian.
    """
    total: Tensors = {}
    count = 0
    with _runs(context) as run:
        for batch in _batches(context):
            for sample in batch.split(1):
                for value, gradient in run.gradients(sample).items():
                    change = gradient.mul_(run.weights[value].detach()).square_()
                    total[value] = total[value].add_(change) if value in total else change
                count += 1
    for change in total.values():
        change.mul_(0.5 / count)
    return by_slice(context.deps, summing(SIGNED), total)


@criterion("obd")
def obd(context: Context) -> Parts:
    """Optimal Brain Damage ½·h·w² with the diagonal h of the Hessian (LeCun et al., 1990).

    The diagonal is Hutchinson's estimate E[v ⊙ Hv] over random signs v (Bekas et al., 2007);
    negative estimates count as zero.
    """
    generator = torch.Generator().manual_seed(context.seed)
    total: Tensors = {}
    with _runs(context, twice=True) as run:
        for batch in _batches(context):
            signs = [run.signs(generator) for _ in range(HESSIAN_PROBES)]
            for probe, product in zip(signs, run.products(batch, signs), strict=True):
                for value, held in product.items():
                    held = held * probe[value]
                    total[value] = total[value].add_(held) if value in total else held
        share = 0.5 / (HESSIAN_PROBES * len(context.batches))
        for value, h in total.items():
            h.mul_(share).clamp_(min=0).mul_(run.weights[value].detach().square())
    return by_slice(context.deps, summing(SIGNED), total)


@criterion("grasp")
def grasp(context: Context) -> Parts:
    """Preservation of gradient flow, w·(Hg) (Wang et al., GraSP, ICLR 2020; temperature 1).

    The paper removes the highest -w·(Hg): weights whose removal raises the gradient norm.
    """
    return by_slice(context.deps, summing(SIGNED), preservations(context))


def preservations(context: Context) -> Tensors:
    """GraSP's w·(Hg) of every single weight; the lowest go first."""
    total: Tensors = {}
    with _runs(context, twice=True) as run:
        gradients = _mean_gradients(context, run)
        for batch in _batches(context):
            for value, held in run.products(batch, [gradients])[0].items():
                total[value] = total[value].add_(held) if value in total else held
        for value, held in total.items():
            held.mul_(run.weights[value].detach()).div_(len(context.batches))
    return total


@criterion("synflow")
def synflow(context: Context) -> Parts:
    """Synaptic flow |w|·∂R/∂|w|, R = Σ f_|w|(1) (Tanaka et al., 2020); needs no data.

    One round; with `steps=` the flow is computed anew after each step, as the paper does.
    """
    return by_slice(context.deps, summing(SIGNED), flows(context))


def flows(context: Context) -> Tensors:
    """SynFlow's |w|·∂R/∂|w| of every single weight, the largest scaled to 1."""

    def total(output: Any, _: Any) -> torch.Tensor:
        floats = [x for x in _tensors(output) if x.is_floating_point()]
        return torch.stack([x.sum() for x in floats]).sum()

    args, kwargs = pytree.tree_map_only(torch.Tensor, _ones, context.inputs)
    flow = Context(context.deps, context.network(), loss=total, name=context.name)
    with _runs(flow, change=lambda w: w.double().abs()) as run:
        gradients = run.gradients(Batch(args, kwargs))
        found = {v: g.mul_(run.weights[v].detach()) for v, g in gradients.items()}
    scale = max((float(x.abs().max()) for x in found.values()), default=0.0) or 1.0
    return {v: x / scale for v, x in found.items()}


def _ones(x: torch.Tensor) -> torch.Tensor:
    return torch.ones_like(x, dtype=torch.float64) if x.is_floating_point() else x


def cross_entropy(output: Any, labels: Any) -> torch.Tensor:
    """The loss where the caller gives none: the model's own, or cross-entropy on its logits.

    Raises:
        GraphPruneError: There are no labels, or they do not fit the output.
    """
    own = getattr(output, "loss", None)
    if isinstance(own, torch.Tensor):
        return own
    if labels is None:
        raise GraphPruneError(
            "the data holds no labels: pass batches of (inputs, labels), or loss=fn, a function "
            "(output, labels) -> scalar"
        )
    logits = getattr(output, "logits", None)
    logits = next(iter(_tensors(output)), None) if logits is None else logits
    if isinstance(logits, torch.Tensor) and isinstance(labels, torch.Tensor):
        if logits.shape == labels.shape:  # probabilities, or one-hot
            return F.cross_entropy(logits, labels.to(logits))
        whole = not (labels.is_floating_point() or labels.is_complex())
        last = logits.shape[:-1] == labels.shape
        if whole and (last or logits.shape[:1] + logits.shape[2:] == labels.shape):
            _check_classes(labels, logits.shape[-1 if last else 1])
            if last:
                return F.cross_entropy(logits.flatten(0, -2), labels.flatten().long())
            return F.cross_entropy(logits, labels.long())
        shapes = f"{tuple(logits.shape)} and labels {tuple(labels.shape)} of {labels.dtype}"
    else:
        shapes = f"{type(output).__name__} and labels {type(labels).__name__}"
    raise GraphPruneError(
        f"cross-entropy does not fit outputs {shapes}: pass loss=fn, a function "
        "(output, labels) -> scalar"
    )


def _check_classes(labels: torch.Tensor, classes: int) -> None:
    """Refuse labels that are no classes of the output; -100 stands for none."""
    wrong = labels[((labels < 0) & (labels != _IGNORED)) | (labels >= classes)]
    if wrong.numel():
        raise GraphPruneError(
            f"a label is {int(wrong[0])}, but the output has the classes 0 to {classes - 1}"
        )


def _tensors(output: Any) -> list[torch.Tensor]:
    values = list(output.values()) if isinstance(output, Mapping) else output
    return [x for x in pytree.tree_leaves(values) if isinstance(x, torch.Tensor)]


class _Run:
    """The module as a function of detached weights.

    Attributes:
        weights: What stands for each parameter of the graph that the module holds.
    """

    def __init__(
        self, context: Context, change: Callable[[torch.Tensor], torch.Tensor] | None
    ) -> None:
        self._model = context.network()
        self._loss = context.loss or cross_entropy
        self._labelled = "labels" in inspect.signature(self._model.forward).parameters
        named = {id(v.tensor): v for v in context.deps.source.parameters()}
        self.weights: Tensors = {}
        self._state: dict[str, torch.Tensor] = {}
        for name, buffer in self._model.named_buffers():
            wider = change is not None and buffer.is_floating_point()
            self._state[name] = buffer.detach().double() if wider else buffer.detach().clone()
        for name, parameter in self._model.named_parameters():
            held = parameter.detach()
            floats = held.is_floating_point()
            held = change(held) if change is not None and floats else held
            if id(parameter) in named and floats:
                self.weights[named[id(parameter)]] = held.requires_grad_()
            self._state[name] = held

    def loss(self, batch: Batch) -> torch.Tensor:
        """The loss of a batch, a scalar."""
        kwargs = dict(batch.kwargs)
        if self._labelled and batch.labels is not None and not batch.args:
            kwargs["labels"] = batch.labels
        output = torch.func.functional_call(self._model, self._state, batch.args, kwargs)
        try:
            loss = self._loss(output, batch.labels)
        except GraphPruneError:
            raise
        except Exception as error:  # the caller's own function
            raise GraphPruneError(f"loss(output, labels) failed: {named_line(error)}") from error
        if not isinstance(loss, torch.Tensor) or loss.numel() != 1 or not loss.requires_grad:
            raise GraphPruneError("loss: the function must return a scalar tensor with a gradient")
        if not bool(torch.isfinite(loss.detach()).all()):
            raise GraphPruneError("the loss on the calibration data is not finite")
        return loss

    def gradients(self, batch: Batch, twice: bool = False) -> Tensors:
        """The loss's gradient by every weight, zero where it does not depend on one."""
        found = torch.autograd.grad(
            self.loss(batch), list(self.weights.values()), create_graph=twice, allow_unused=True
        )
        return {
            value: torch.zeros_like(weight) if gradient is None else gradient
            for (value, weight), gradient in zip(self.weights.items(), found, strict=True)
        }

    def products(self, batch: Batch, vectors: list[Tensors]) -> list[Tensors]:
        """Products of the loss's Hessian with vectors."""
        gradients = self.gradients(batch, twice=True)
        out: list[Tensors] = []
        for number, vector in enumerate(vectors, 1):
            curved = [v for v in self.weights if gradients[v].requires_grad]
            if not curved:  # the loss is linear in the weights
                out.append({})
                continue
            found = torch.autograd.grad(
                torch.stack([(gradients[v] * vector[v]).sum() for v in curved]).sum(),
                list(self.weights.values()),
                retain_graph=number < len(vectors),
                allow_unused=True,
            )
            pairs = zip(self.weights, found, strict=True)
            out.append({value: product for value, product in pairs if product is not None})
        return out

    def signs(self, generator: torch.Generator) -> Tensors:
        """A random sign for each weight."""
        return {
            value: torch.randint(0, 2, weight.shape, generator=generator).mul_(2).sub_(1).to(weight)
            for value, weight in self.weights.items()
        }


@contextmanager
def _runs(
    context: Context,
    change: Callable[[torch.Tensor], torch.Tensor] | None = None,
    twice: bool = False,
) -> Iterator[_Run]:
    """The network ready to run in eval mode; attention in a form that has second derivatives."""
    model = context.network()
    backends = [SDPBackend.MATH] if twice else [SDPBackend.MATH, SDPBackend.FLASH_ATTENTION]
    with preserved(model), torch.enable_grad(), sdpa_kernel(backends):
        model.eval()
        yield _Run(context, change)


def _batches(context: Context) -> Iterator[Batch]:
    return tracked(context.data(), f"importance {context.name}", len(context.data()))


def _mean_gradients(context: Context, run: _Run) -> Tensors:
    total: Tensors = {}
    for batch in _batches(context):
        for value, gradient in run.gradients(batch).items():
            total[value] = total[value].add_(gradient) if value in total else gradient
    for gradient in total.values():
        gradient.div_(len(context.batches))
    return total


def _added(a: Parts, b: Parts) -> Parts:
    if not a:
        return b
    return [[x + y for x, y in zip(p, q, strict=True)] for p, q in zip(a, b, strict=True)]

"""Recover a smaller model's accuracy: distillation from the model it was made of."""

from __future__ import annotations

import copy
import math
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any, TypeVar

import torch
from torch import nn

from graphprune.core.batch import Batch
from graphprune.core.callers import called, check_function
from graphprune.core.errors import GraphPruneError, OptionError
from graphprune.core.groups import Dependencies
from graphprune.core.progress import interruptible, progress
from graphprune.core.scalars import Logged, Writer, tell, writer_of
from graphprune.engine.copying import copied
from graphprune.engine.muon import Muon
from graphprune.importance import Loss
from graphprune.importance.gradients import cross_entropy
from graphprune.statistics.constants import BACKWARD_FACTOR
from graphprune.statistics.estimate import seconds as step_seconds
from graphprune.statistics.estimate import turning_seconds
from graphprune.training.attached import bare
from graphprune.training.constants import (
    BATCH,
    EPOCHS,
    FEATURES,
    PATIENCE,
    RATE,
)
from graphprune.training.distil import (
    TEMPERATURE,
    Layer,
    distillation,
    feature_loss,
    layer_map,
    watched,
)
from graphprune.training.ranks import Ranks
from graphprune.training.samples import samples_of
from graphprune.training.shuffled import Shuffled
from graphprune.training.streamed import Streamed
from graphprune.training.tried import check_numbers, run, shapes

M = TypeVar("M", bound=nn.Module)

RECOVERY = "graphprune_recovery"
"""The attribute of a recovered model that tells what was done."""

_TRIED = 2  # samples that both models are tried on, of each shape: one may be told from none

_STOPPED = "nothing is kept; seconds=, or a callback= that returns False, ends with the best"


_UNLABELLED = "loss= needs labels: pass data as batches of (inputs, labels)"


@dataclass
class Recovery:
    """What `recover` did.

    Attributes:
        before: Loss on the held-out batches before it.
        after: Loss on them afterwards, of the weights that were kept: the best.
        steps: Optimizer steps taken.
        seconds: Time taken.
        losses: Loss of each step.
    """

    before: float
    after: float
    steps: int
    seconds: float
    losses: list[float] = field(default_factory=list, repr=False)


Callback = Callable[[int, float], Any]
"""Called after each step with its number and its loss; training stops where it returns False."""


def recover(
    small: M,
    teacher: nn.Module,
    data: Any = None,
    *,
    epochs: int = EPOCHS,
    rate: float = RATE,
    batch_size: int = BATCH,
    loss: Loss | bool | None = None,
    features: bool = True,
    temperature: float = TEMPERATURE,
    seconds: float | None = None,
    callback: Callback | None = None,
    log: Any = None,
    seed: int = 0,
    accelerator: Any = None,
) -> M:
    """Train a smaller model to give what the model it was made of gives.

    The loss is `distillation` of the outputs, plus the mean squared difference of what up to
    `FEATURES` layers give (`feature_loss`), plus the loss on labels where `loss` is given. The
    optimizer is Muon (Jordan et al. 2024), its rate falling along a cosine. The held-out part of
    the data decides when to stop and which weights are kept; where nothing beats those at the
    start, they stay.

    Args:
        small: The smaller model; not modified.
        teacher: The model that it was made of; not modified.
        data: Inputs, as for `graphprune.shrink`; labels count only with `loss`. A loader, a data
            set, or whatever else can be iterated anew, is read in every pass, so that its
            augmentation and order are new; tensors, lists and iterators stay in memory. None:
            inputs are made, as for compensation.
        epochs: Passes over the data, at most.
        rate: The share of its norm by which the first steps change a weight matrix; what is no
            matrix, and embeddings, take Adam's steps at a tenth of the rate.
        batch_size: Samples for a step, whatever the size of the batches in `data`; the samples of
            equal shapes are shuffled anew for each epoch.
        loss: A function (outputs, labels) -> scalar for the labels; True: cross-entropy, or the
            loss that the model itself gives.
        features: Whether layers are compared too; only where `small` was made in this process.
        temperature: T of `distillation`.
        seconds: Stop after so many.
        callback: Called after each step with its number and loss; False stops.
        log: Anything with `add_scalar(name, value, step)`, such as TensorBoard's `SummaryWriter`:
            takes the loss of each step and that on the held-out batches after each epoch. None:
            the latter goes to `logging.getLogger("graphprune")`, at INFO.
        seed: For the order of the data.
        accelerator: An `accelerate.Accelerator` whose device, precision and ranks train; every
            rank calls `recover` with the same data.

    Returns:
        A trained copy of `small`, in eval mode, on the same device, or the accelerator's. Its
        attribute `graphprune_recovery` tells what was done (`Recovery`).

    Raises:
        OptionError: A value is none that could be meant.
        GraphPruneError: The data fit one of the two models not, what the two give is not of one
            shape, no inputs can be made, the loss is not finite, or `loss` or `callback` fails.

    Example::

        small = graphprune.shrink(model, ratio=0.8)
        small = recover(small, teacher=model, data=loader)
    """
    check_numbers(epochs, batch_size, rate, temperature, seconds)
    for what, given in (("small", small), ("teacher", teacher)):
        if not isinstance(given, nn.Module):
            raise OptionError(f"{what} is a torch.nn.Module, not a {type(given).__name__}")
    own: Loss | None = cross_entropy if loss is True else None if loss is False else loss
    check_function("loss", own, "outputs", "labels")
    check_function("callback", callback, "step", "loss")
    writer, teacher = writer_of(log), bare(teacher)
    if not any(parameter.requires_grad for parameter in small.parameters()):
        raise OptionError("small has no parameter that is trained: small.requires_grad_(True)")
    layers = _compared(small, teacher) if features else []
    student, ranks = copied(bare(small)), Ranks(accelerator)
    if ranks.device is not None:
        student.to(ranks.device)
        teacher = copied(teacher).to(ranks.device)
    samples = samples_of(teacher, data, batch_size, seed)
    held = samples.hold_out()
    modes = {module: module.training for module in teacher.modules()}
    teacher.eval()
    try:
        trainer = _Trainer(student, teacher, layers, own, temperature, writer, ranks)
        trainer.check(samples.known)
        trainer.run(samples, held, epochs, rate, seconds, callback)
    finally:
        for module, mode in modes.items():
            module.training = mode
    student.eval()
    student.__dict__[RECOVERY] = trainer.done
    return student  # type: ignore[return-value]


def takes(deps: Dependencies, number: int, epochs: int = EPOCHS) -> float:
    """About how many seconds `recover` takes on one core, if nothing ends it early.

    Args:
        deps: The analysis of the teacher; the smaller model is taken to be as large.
        number: Samples.
        epochs: Passes over them.
    """
    runs = step_seconds(deps, number, 1) * (1 + 1 / BACKWARD_FACTOR)
    steps = -(-number // BATCH)
    return epochs * (runs + steps * turning_seconds(deps.source.parameters()))


def _compared(small: nn.Module, teacher: nn.Module) -> list[Layer]:
    """Layers to compare; none where it is not known what the smaller model was made of."""
    try:
        found = layer_map(small)
    except GraphPruneError:
        return []
    paths = {path for path, _ in teacher.named_modules()}
    found = [layer for layer in found if layer.path in paths]
    step = max(1, -(-len(found) // FEATURES))
    return found[::step]


class _Trainer:
    """The loop of `recover`.

    Attributes:
        done: What it did.
    """

    def __init__(
        self,
        student: nn.Module,
        teacher: nn.Module,
        layers: Sequence[Layer],
        loss: Loss | None,
        temperature: float,
        writer: Writer,
        ranks: Ranks,
    ) -> None:
        self._writer, self._ranks, self._wrapped = writer, ranks, student
        self.student, self.teacher, self.layers = student, teacher, layers
        self._loss, self._temperature = loss, temperature
        self.done = Recovery(0.0, 0.0, 0, 0.0)

    @torch.no_grad()
    def check(self, batches: Sequence[Batch]) -> None:
        """Run both models on the first samples of each shape that is known, before the work.

        Raises:
            GraphPruneError: One of them does not take them, what they give cannot be compared, or
                labels are missing.
        """
        if self._loss is not None and any(batch.labels is None for batch in batches):
            raise GraphPruneError(_UNLABELLED)
        self.student.eval()
        heads = {shapes(batch): batch.head(_TRIED) for batch in reversed(batches)}
        for batch in heads.values():
            self._apart(batch)

    def run(
        self,
        samples: Shuffled | Streamed,
        held: list[Batch],
        epochs: int,
        rate: float,
        seconds: float | None,
        callback: Callback | None,
    ) -> None:
        """Train; the best weights on the held-out batches stay in the student."""
        start = time.monotonic()
        whole = Muon.of(self.student, rate)
        self._wrapped, optimizer = self._ranks.prepared(self.student, whole)
        best = self.done.before = self._judge(held)
        kept, worse = copy.deepcopy(self.student.state_dict()), 0
        steps = max(1, samples.steps // self._ranks.number)
        with interruptible(lambda: _STOPPED), progress("recovering") as advance:
            for epoch in range(epochs):
                going, taken = True, 0
                for drawn in self._ranks.together(self._ranks.part(samples())):
                    done = (epoch + min(taken / steps, 1)) / epochs
                    for group in optimizer.param_groups:
                        group["lr"] = rate * (1 + math.cos(math.pi * done)) / 2
                    going = self._step(drawn.batch(), optimizer, callback)
                    taken += 1
                    advance((epoch + min(taken / steps, 1)) / epochs)
                    if seconds is not None and time.monotonic() - start > seconds:
                        going = False
                    going = self._ranks.mean(going) == 1
                    if not going:
                        break
                steps = max(1, taken)  # of a loader that says how many it has, or not quite
                found = self._judge(held)
                tell(self._writer, "recover", {"held_out": found}, self.done.steps)
                if found < best:
                    best, worse = found, 0
                    kept = copy.deepcopy(self.student.state_dict())
                else:
                    worse += 1
                if not going or worse >= PATIENCE:
                    break
        self._ranks.release(self._wrapped)
        self.student.load_state_dict(kept)
        self.done.after = best
        self.done.seconds = time.monotonic() - start

    def _step(
        self, batch: Batch, optimizer: torch.optim.Optimizer, callback: Callback | None
    ) -> bool:
        """One step; whether training goes on."""
        self.student.train()
        optimizer.zero_grad()
        value = self._apart(batch)
        if not bool(torch.isfinite(value.detach())):
            raise GraphPruneError(
                f"the loss of step {self.done.steps + 1} is not finite: pass a lower rate="
            )
        self._ranks.backward(value)
        optimizer.step()
        self.done.steps += 1
        self.done.losses.append(float(value.detach()))
        if not isinstance(self._writer, Logged):  # a line for each step would be too many
            tell(self._writer, "recover", {"loss": self.done.losses[-1]}, self.done.steps)
        if callback is None:
            return True
        said = called(
            f"callback(step, loss) of step {self.done.steps}",
            callback, self.done.steps, self.done.losses[-1],
        )  # fmt: skip
        return said is not False

    @torch.no_grad()
    def _judge(self, held: Sequence[Batch]) -> float:
        """Mean loss on the held-out batches, in eval mode."""
        self.student.eval()
        return self._ranks.mean(sum(float(self._apart(batch)) for batch in held) / len(held))

    def _apart(self, batch: Batch) -> torch.Tensor:
        """How far the student is from its teacher on a batch."""
        with torch.no_grad(), watched(self.teacher, self.layers) as aims:
            wanted = run(self.teacher, "the teacher", batch)
        with watched(self.student, self.layers) as seen:
            output = run(self._wrapped, "the smaller model", batch)
        if self._loss is not None and batch.labels is None:
            raise GraphPruneError(_UNLABELLED)
        total = distillation(
            output, wanted, batch.labels, loss=self._loss, temperature=self._temperature
        )
        if self.layers:
            total = total + feature_loss(self.layers, seen, aims)
        return total

"""How far a smaller model is from the one it was made of: in its outputs, and layer by layer."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import nn
from torch.utils import _pytree as pytree

from graphprune.core.callers import called
from graphprune.core.errors import GraphPruneError, OptionError
from graphprune.importance import Loss
from graphprune.recalibration import made_from
from graphprune.rules.readings import reading

TEMPERATURE = 2.0
"""T of the softened class probabilities. Hinton et al. (Distilling the Knowledge in a Neural
Network, 2015) use 1 to 20 and find 2.5 to 4 best for small students; not measured here."""

LABELLED = 1.0
"""Weight of the loss on labels beside that of the teacher. The same paper (section 2) takes a small
one. Measured on Fashion-MNIST with originals of 5 epochs (10 the second), % right of 10,000 images
beyond the splits, one training each, original / without labels / at 0.3 / at 1: a MobileNet
without 68 % of its parameters 86.1 / 86.1 / 86.8 / 88.0, a ViT without 70 % 79.2 / 78.9 / - / 82.0.
On digits, originals at 99.4 %, there is no difference (99.5, four trainings)."""


def distillation(
    student: Any, teacher: Any, labels: Any = None, *, loss: Loss | None = None,
    temperature: float = TEMPERATURE,
) -> torch.Tensor:  # fmt: skip
    """How far a student's outputs are from its teacher's.

    Class scores (floating-point outputs of at least two dimensions) are compared as
    T²·KL(softmax(teacher/T) ‖ softmax(student/T)) along the last dimension (along the first behind
    the batch for pictures of scores), others by their mean squared difference relative to the
    teacher's mean square; all are added.

    Args:
        student: Outputs of the smaller model, of any structure.
        teacher: Outputs of the model it was made of.
        labels: Labels, or None.
        loss: A function (outputs, labels) -> scalar, whose value counts `LABELLED` beside the
            teacher's; labels count only where it is given.
        temperature: T.

    Raises:
        OptionError: `loss` returns no scalar tensor.
        GraphPruneError: The two are not of one structure, or hold no floating-point tensor; or
            `loss` fails.
    """
    own, other = _floats(student), _floats(teacher)
    if len(own) != len(other) or not own:
        raise GraphPruneError(
            f"the student gives {len(own)} floating-point tensors, the teacher {len(other)}: "
            "pass loss= for what should be compared"
        )
    total = own[0].new_zeros(())
    for a, b in zip(own, other, strict=True):
        if a.shape != b.shape:
            raise GraphPruneError(
                f"the student gives {tuple(a.shape)} where the teacher gives {tuple(b.shape)}"
            )
        total = total + _apart(a.float(), b.detach().float(), temperature)
    if loss is not None and labels is not None:
        found = called("loss(outputs, labels)", loss, student, labels)
        if not isinstance(found, torch.Tensor) or found.numel() != 1:
            raise OptionError("loss(outputs, labels) returns no scalar tensor")
        total = total + LABELLED * found.reshape(())
    return total


def _apart(a: torch.Tensor, b: torch.Tensor, temperature: float) -> torch.Tensor:
    relative = (a - b).square().mean() / b.square().mean().clamp(min=1e-12)
    if a.dim() not in (2, 3, 4) or a.shape[1 if a.dim() == 4 else -1] < 2:
        return relative
    dim = 1 if a.dim() == 4 else -1
    soft = F.log_softmax(a / temperature, dim)
    hard = F.log_softmax(b / temperature, dim)
    kl = F.kl_div(soft, hard, log_target=True, reduction="none").sum(dim).mean()
    return temperature**2 * kl + relative


def _floats(output: Any) -> list[torch.Tensor]:
    if hasattr(output, "to_tuple"):
        output = output.to_tuple()
    found = [x for x in pytree.tree_leaves(output) if isinstance(x, torch.Tensor)]
    return [x for x in found if x.is_floating_point()]


@dataclass(frozen=True)
class Layer:
    """One layer whose output the smaller model should match.

    Attributes:
        path: The module, in both models.
        dim: The dimension of its output that holds its channels.
        kept: Channels of the original that stay, sorted; None where all do.
    """

    path: str
    dim: int
    kept: torch.Tensor | None


def layer_map(small: nn.Module) -> list[Layer]:
    """Which channels of the original each layer of a smaller model still has.

    Args:
        small: A model that `shrink` or `Plan.apply` made in this process.

    Returns:
        One entry for each module that is one linear layer, in the order in which they run.

    Raises:
        GraphPruneError: It is not known what `small` was made of.
    """
    work = made_from(small)
    modules = dict(small.named_modules())
    calls: dict[str, int] = {}
    found: dict[str, Layer] = {}
    for op in work.deps.source.ops:
        calls[op.module] = calls.get(op.module, 0) + 1
        read = reading(op)
        if read is None or isinstance(read, str) or not op.module or op.module not in modules:
            continue
        kept = work.cuts.kept(op.outputs[0])[read.output]
        held = None if kept is None else torch.as_tensor(kept)
        found[op.module] = Layer(op.module, read.output, held)
    return [layer for path, layer in found.items() if calls[path] == 1]


@contextmanager
def watched(model: nn.Module, layers: Sequence[Layer]) -> Iterator[dict[str, torch.Tensor]]:
    """What some layers give, by path, anew in every forward pass."""
    seen: dict[str, torch.Tensor] = {}

    def keep(path: str) -> Callable[[nn.Module, Any, Any], None]:
        def hook(_: nn.Module, __: Any, output: Any) -> None:
            if isinstance(output, torch.Tensor):
                seen[path] = output

        return hook

    handles = [model.get_submodule(x.path).register_forward_hook(keep(x.path)) for x in layers]
    try:
        yield seen
    finally:
        for handle in handles:
            handle.remove()


def feature_loss(
    layers: Sequence[Layer], student: dict[str, torch.Tensor], teacher: dict[str, torch.Tensor]
) -> torch.Tensor | float:
    """Mean squared difference of what layers give, relative to the teacher's mean square.

    Args:
        layers: The layers, as `layer_map` gives them.
        student: What they give in the smaller model, by path.
        teacher: What they give in the original; its lost channels are left out.

    Raises:
        GraphPruneError: The teacher has too few channels to be the original.
    """
    total: torch.Tensor | float = 0.0
    number = 0
    for layer in layers:
        own, other = student.get(layer.path), teacher.get(layer.path)
        if own is None or other is None:
            continue
        if layer.kept is not None:
            if int(layer.kept.max()) >= other.shape[layer.dim]:
                raise GraphPruneError(
                    f"{layer.path} of the teacher has {other.shape[layer.dim]} channels, and the "
                    f"smaller model keeps number {int(layer.kept.max())} of its original: pass the "
                    "teacher that it was made of, or features=False"
                )
            other = other.index_select(layer.dim, layer.kept.to(other.device))
        if own.shape != other.shape:
            continue
        other = other.detach().float()
        square = other.square().mean().clamp(min=1e-12)
        total = total + (own.float() - other).square().mean() / square
        number += 1
    return total / number if number else total

"""What all methods share: they ride on an optimizer's steps.

A step of the optimizer is the unit of time of every method here. Before it, gradients are complete:
accumulated over micro-batches, unscaled by a `GradScaler`, averaged over processes. After it,
weights are new.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any, ClassVar

import torch
from torch import nn
from torch.utils.hooks import RemovableHandle
from typing_extensions import Self

from graphprune.core.errors import GraphPruneError, OptionError
from graphprune.core.scalars import Writer, tell, writer_of


def bare(model: nn.Module) -> nn.Module:
    """The module inside `DataParallel`, `DistributedDataParallel` and `torch.compile` wrappers.

    Raises:
        OptionError: It is no module.
    """
    if not isinstance(model, nn.Module):
        raise OptionError(f"model is a torch.nn.Module here, not a {type(model).__name__}")
    while True:
        inner = getattr(model, "_orig_mod", None)
        if inner is None and isinstance(
            model, nn.DataParallel | nn.parallel.DistributedDataParallel
        ):
            inner = model.module
        if not isinstance(inner, nn.Module):
            return model
        model = inner


class Attached:
    """A method that works at each step of an optimizer.

    Subclasses define `before` (gradients are complete) and `after` (weights are new).

    Attributes:
        steps: Optimizer steps seen so far.
    """

    kind: ClassVar[str] = "method"

    def __init__(self) -> None:
        self.steps = 0
        self._handles: list[RemovableHandle] = []
        self._optimizer: torch.optim.Optimizer | None = None
        self._writer: Writer | None = None
        self._told_every = 1

    @property
    def is_attached(self) -> bool:
        """Whether it works at the steps of an optimizer."""
        return self._optimizer is not None

    @property
    def optimizer(self) -> torch.optim.Optimizer:
        """The optimizer that it is attached to.

        Raises:
            GraphPruneError: It is attached to none.
        """
        if self._optimizer is None:
            raise GraphPruneError(
                f"{type(self).__name__} is attached to no optimizer: call .attach(optimizer) first"
            )
        return self._optimizer

    def attach(self, optimizer: torch.optim.Optimizer) -> Self:
        """Work at every step of an optimizer from now on.

        Args:
            optimizer: Any `torch.optim.Optimizer`; its steps may come from a `GradScaler`, from
                `accelerate`, Lightning or `transformers.Trainer`.

        Returns:
            The method itself.

        Raises:
            OptionError: This is no optimizer, or none of the model's.
            GraphPruneError: The method is attached already.
        """
        inner = getattr(optimizer, "optimizer", optimizer)  # accelerate's wrapper
        if not isinstance(inner, torch.optim.Optimizer):
            raise OptionError(f"attach takes a torch.optim.Optimizer, not {optimizer!r}")
        if self._optimizer is not None:
            raise GraphPruneError(
                f"this {type(self).__name__} is attached already: call .detach() first"
            )
        held = {id(p) for group in inner.param_groups for p in group["params"]}
        own = [parameter for parameter in self.parameters() if parameter.requires_grad]
        if own and not any(id(parameter) in held for parameter in own):
            raise OptionError(
                f"the optimizer holds no parameter of the model that this {type(self).__name__} is "
                "for: make it of that model's .parameters()"
            )
        self._optimizer = inner
        self._handles = [
            inner.register_step_pre_hook(self._before),
            inner.register_step_post_hook(self._after),
        ]
        self.attached()
        return self

    def log(self, writer: Any = None, every: int = 100) -> Self:
        """Write what the method does from now on, as numbers: see `scalars`.

        Args:
            writer: Anything with `add_scalar(name, value, step)`, such as TensorBoard's
                `SummaryWriter`; None: `logging.getLogger("graphprune")`, at INFO.
            every: Optimizer steps between two lines.

        Returns:
            The method itself.

        Raises:
            OptionError: The writer has no `add_scalar`, or `every` is no number of steps.
        """
        if isinstance(every, bool) or not isinstance(every, int) or every < 1:
            raise OptionError(f"every is a number of optimizer steps, not {every!r}")
        self._writer, self._told_every = writer_of(writer), every
        return self

    def scalars(self) -> dict[str, float]:
        """What tells how far the method is, by name."""
        return {}

    def detach(self) -> None:
        """Take no part in further steps; what was done stays."""
        for handle in self._handles:
            handle.remove()
        self._handles = []
        self._optimizer = None

    def parameters(self) -> Iterable[nn.Parameter]:
        """Those of the model that is trained."""
        raise NotImplementedError

    def attached(self) -> None:
        """Called once the optimizer is known."""

    def before(self) -> None:
        """Called before each step, gradients complete."""

    def after(self) -> None:
        """Called after each step, weights new."""

    def _before(
        self, _: torch.optim.Optimizer, args: tuple[Any, ...], named: dict[str, Any]
    ) -> tuple[tuple[Any, ...], dict[str, Any]] | None:
        """Work before a step, or behind its closure: Lightning's makes the gradients within it."""
        optimizer, *rest = args
        closure = rest[0] if rest else named.get("closure")
        if closure is None:
            self.before()
            return None

        def whole() -> Any:
            value = closure()
            self.before()
            return value

        return (optimizer,), {**named, "closure": whole}

    def _after(self, *_: Any) -> None:
        self.steps += 1
        self.after()
        if self._writer is not None and self.steps % self._told_every == 0:
            tell(self._writer, self.kind, self.scalars(), self.steps)

    def state_dict(self) -> dict[str, Any]:
        """What `load_state_dict` needs to go on: tensors and plain data."""
        return {"kind": self.kind, "steps": self.steps}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go on from a state.

        Raises:
            GraphPruneError: It is the state of another method.
        """
        kind = state.get("kind") if isinstance(state, Mapping) else type(state).__name__
        if kind != self.kind:
            raise GraphPruneError(
                f"this is no state of {type(self).__name__}, which has kind {self.kind!r}, "
                f"but {kind!r}"
            )
        self.steps = int(state["steps"])

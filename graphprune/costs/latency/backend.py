"""What a backend must do to have a model timed, and the timing of whole models."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from typing import Any, Protocol

import torch
from torch.utils import _pytree as pytree

from graphprune.core.graph import Op
from graphprune.core.program import Inputs
from graphprune.costs.latency.timing import Call, in_turns

Operands = Sequence["torch.Tensor | None"]


class Backend(Protocol):
    """Runs operations and models.

    Attributes:
        name: One of `graphprune.choice.request.BACKENDS`.
        fuses: Whether operations without multiply-accumulates join their neighbours.
    """

    name: str
    fuses: bool

    def operation(
        self, op: Op, changed: Mapping[str, Any], operands: Operands
    ) -> tuple[str, Callable[[], Call]]:
        """An operation on narrowed operands: a key that names it, and what makes it ready."""

    @contextmanager
    def running(self, model: Any, inputs: Inputs) -> Iterator[Call]:
        """A whole model, ready to run on its inputs for a while; it stays as it is."""


def device_of(tree: Any) -> torch.device:
    """Where the first tensor of a tree lies."""
    leaves = pytree.tree_leaves(tree)
    return next((x.device for x in leaves if isinstance(x, torch.Tensor)), torch.device("cpu"))


def forward_seconds(
    models: Sequence[Any], inputs: Inputs, runs_in: Backend, least: int = 15
) -> list[float]:
    """Median wall time of a forward pass of each model, taken in turns on the same inputs.

    Args:
        models: Modules or protobufs, as the backend takes them; they stay as they are.
        inputs: Positional and keyword arguments for each.
        runs_in: What runs them.
        least: How often each one runs at least; short passes run more often.
    """
    with ExitStack() as stack:
        calls = [stack.enter_context(runs_in.running(model, inputs)) for model in models]
        return in_turns(calls, device_of(inputs), least)

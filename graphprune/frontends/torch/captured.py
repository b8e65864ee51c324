"""A captured module: the module, its example inputs and its graph."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import cached_property

import torch
from torch import nn
from torch.utils import _pytree as pytree

from graphprune.core.batch import Batch
from graphprune.core.graph import Graph
from graphprune.core.program import Inputs
from graphprune.engine.state import preserved, quiet
from graphprune.frontends.torch.parts import (
    Parts,
)
from graphprune.frontends.torch.replay import replay


@dataclass
class CapturedModule:
    """A captured model.

    Attributes:
        model: The caller's module, or a view of it that calls the parts that were captured; only
            ever read.
        inputs: The example inputs it was captured with: positional and keyword arguments.
        graph: The neutral graph.
        seconds: How long torch.export took.
        warnings: What the caller should know.
        original: The caller's module, where `model` is a view of it.
        given: The caller's inputs, where `inputs` are those of parts.
        parts: What was captured, where it is not the whole.
        on_meta: Whether its code runs on meta tensors, as far as is known.
        valued: Whether its code asks for values of stored tensors, or packs sequences.
        builds: Whether its code keeps tensors on modules as it runs, tables that it makes once: it
            was captured after a first run.
    """

    model: nn.Module
    inputs: Inputs
    graph: Graph
    seconds: float = 0.0
    warnings: list[str] = field(default_factory=list)
    original: nn.Module | None = None
    given: Inputs | None = None
    parts: Parts | None = None
    on_meta: bool = True
    builds: bool = False
    valued: bool = False

    @cached_property
    def layers(self) -> frozenset[str]:
        """Paths of the plain layers of `torch.nn`, whose code can express any width."""
        modules = self.model.named_modules(remove_duplicate=False)
        return frozenset(path for path, module in modules if is_layer(module))

    @property
    def name(self) -> str:
        """What the report calls the model."""
        return type(self.model).__name__

    def batch(self) -> int:
        """Samples in the example inputs: the first dimension of the first of them, or 1."""
        first = self.graph.inputs[0].shape if self.graph.inputs else ()
        return first[0] if first else 1

    def replayed(self, batches: Sequence[Batch]) -> Sequence[Batch]:
        """Data as the graph takes it: where parts were captured, what they take.

        Raises:
            GraphPruneError: It does not fit what was captured.
        """
        if self.original is None or self.parts is None or self.given is None:
            return batches
        with preserved(self.original), quiet():
            self.original.eval()
            return replay(self.original, self.parts, self.given, batches)

    def flat_inputs(self) -> list[torch.Tensor]:
        """The tensors among the example inputs, in the graph's order."""
        return [leaf for leaf in pytree.tree_leaves(self.inputs) if isinstance(leaf, torch.Tensor)]


def is_layer(module: nn.Module) -> bool:
    """Whether a module is a plain layer of `torch.nn`, whose code can express any width."""
    name = type(module).__name__
    composite = any(part in name for part in ("MultiheadAttention", "Transformer", "Unflatten"))
    return type(module).__module__.startswith("torch.nn.") and not composite

"""A trained network, with what a method may know of it."""

from __future__ import annotations

import copy
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import TypeAlias

import torch
from torch import Tensor, nn

from graphprune.compensation.options import Options
from graphprune.frontends.opening import open_model
from graphprune.pipeline import Asked, Pipeline
from graphprune.planning import worked

Method: TypeAlias = "Callable[[Subject, str, float], nn.Module]"
"""Makes a smaller network: of a subject, a cost, and the share of it to remove."""

NORMS = (nn.BatchNorm1d, nn.BatchNorm2d)


@dataclass
class Subject:
    """A trained network, with what a method may know of it.

    Attributes:
        model: The network; not to be modified.
        inputs: 256 real inputs.
        labels: Their labels, or None.
        score: Its quality on the split that is reported: a perplexity, else higher is better.
        keep: Names of layers that stay as they are, for graphprune alone.
    """

    model: nn.Module
    inputs: Tensor
    labels: Tensor | None
    score: Callable[[nn.Module], float]
    keep: Sequence[str] = ()

    @property
    def example(self) -> Tensor:
        """What the network is captured with."""
        return self.inputs[:2]

    @property
    def normed(self) -> bool:
        """Whether there are batch norms to recalibrate."""
        return any(isinstance(module, NORMS) for module in self.model.modules())

    @cached_property
    def synthetic(self) -> Tensor:
        """Inputs that graphprune makes from the weights alone, for every method alike."""
        work = worked(open_model(self.model, ((self.example,), {})), Asked(options=Options()))
        Pipeline(["couple"]).decide(work)
        samples = work.statistics().samples()
        if samples is None:
            raise ValueError("no inputs can be made for this network")
        return torch.cat([chunk[0] for chunk in samples.chunks])[: len(self.inputs)]


def recalibrated(model: nn.Module, inputs: Tensor) -> nn.Module:
    """A copy with the statistics of all batch norms taken anew from inputs."""
    out = copy.deepcopy(model).eval()
    for norm in out.modules():
        if isinstance(norm, NORMS):
            norm.reset_running_stats()
            norm.momentum = None
            norm.train()
    with torch.no_grad():
        out(inputs)
    return out.eval()

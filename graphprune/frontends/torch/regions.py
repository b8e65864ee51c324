"""Stretches of generated code without gradients, and those in mixed precision."""

from __future__ import annotations

from typing import Any

import torch
from torch import fx

from graphprune.frontends.torch.generated import enter_autocast, leave_autocast
from graphprune.frontends.torch.traced import AUTOCAST_ARGUMENTS


class Regions:
    """The stretches that code, as it is written, is in.

    Args:
        graph: The code.
    """

    def __init__(self, graph: fx.Graph) -> None:
        self._graph = graph
        self._before: fx.Node | None = None  # whether gradients were on before a stretch without
        self._region: dict[str, Any] | None = None  # of mixed precision, and what entered it
        self._entered: fx.Node | None = None

    def gradients(self, enabled: bool) -> None:
        """Enter or leave a stretch without gradients."""
        if enabled and self._before is not None:
            self._graph.call_function(torch._C._set_grad_enabled, (self._before,))
            self._before = None
        elif not enabled and self._before is None:
            self._before = self._graph.call_function(torch.is_grad_enabled)
            self._graph.call_function(torch._C._set_grad_enabled, (False,))

    def autocast(self, held: dict[str, Any] | None) -> None:
        """Leave the region of mixed precision that the code is in, and enter another."""
        if held == self._region:
            return
        if self._entered is not None:
            self._graph.call_function(leave_autocast, (self._entered,))
            self._entered = None
        if held is not None:
            given = tuple(held.get(name) for name in AUTOCAST_ARGUMENTS)
            self._entered = self._graph.call_function(enter_autocast, given)
        self._region = held

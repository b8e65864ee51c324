"""Operations of one's own: a linear one, with a backward and without, and one without a rule."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import nn

import graphprune
from graphprune.rules import registry

NAMES = ("dense", "plain")  # without a backward, the second


def _dense(x: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor) -> torch.Tensor:
    return x @ weight.T + bias


for _name in NAMES:
    _op = torch.library.custom_op(f"graphprune_tests::{_name}", _dense, mutates_args=())
    _op.register_fake(lambda x, weight, bias: x.new_empty(*x.shape[:-1], len(weight)))
    if _name == "dense":
        _op.register_autograd(
            lambda held, g: (
                g @ held.weight,
                g.flatten(0, -2).T @ held.x.flatten(0, -2),
                g.flatten(0, -2).sum(0),
            ),
            setup_context=lambda ctx, inputs, output: ctx.__dict__.update(
                x=inputs[0], weight=inputs[1]
            ),
        )


@torch.library.custom_op("graphprune_tests::unruled", mutates_args=())
def unruled(x: torch.Tensor) -> torch.Tensor:
    """An operation of which nobody tells a rule."""
    return torch.special.bessel_j0(x)


unruled.register_fake(torch.empty_like)


class Own(nn.Linear):
    """A linear layer that computes by the operation."""

    name = "dense"

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        found: torch.Tensor = getattr(torch.ops.graphprune_tests, self.name)(
            x, self.weight, self.bias
        )
        return found


class Plain(Own):
    """The same, of an operation that has no backward."""

    name = "plain"


@contextmanager
def rules() -> Iterator[None]:
    """The rule of the operations, for as long as it is wanted."""
    before = dict(registry._RULES)
    graphprune.axis_rule(*(f"graphprune_tests.{name}" for name in NAMES))(
        lambda op: "... i, o i, o -> ... o"
    )
    yield
    registry._RULES.clear()
    registry._RULES.update(before)

"""Cases of the rule checker: a name, a function, and the tensors to call it with."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cache
from typing import Any

import pytest
import torch

from graphprune.frontends.torch.captured import CapturedModule
from graphprune.testing.check import captured, check_graph, missed_in_graph


@dataclass(frozen=True, eq=False)
class Case:
    """One call that exercises a rule.

    Attributes:
        name: What is special about it.
        function: A function of tensors, or a module.
        tensors: Its arguments.
        missed: Whether the rule is known to lock, or to call mixed, more than it must.
    """

    name: str
    function: Callable[..., Any]
    tensors: tuple[torch.Tensor, ...]
    missed: bool = False


def case(
    name: str, function: Callable[..., Any], *tensors: torch.Tensor, missed: bool = False
) -> Case:
    """A case."""
    return Case(name, function, tensors, missed)


def t(*shape: int) -> torch.Tensor:
    """Normal numbers, the same ones for the same shape."""
    return torch.randn(shape, generator=torch.Generator().manual_seed(sum(shape)))


def p(*shape: int) -> torch.Tensor:
    """Numbers between 0.1 and 0.9, the same ones for the same shape."""
    return 0.1 + 0.8 * torch.rand(shape, generator=torch.Generator().manual_seed(sum(shape)))


def below(high: int, *shape: int) -> torch.Tensor:
    """Integers from 0 to `high - 1`, the same ones for the same arguments."""
    return torch.randint(high, shape, generator=torch.Generator().manual_seed(high + sum(shape)))


def each(cases: Sequence[Case]) -> pytest.MarkDecorator:
    """Run a test once for every case."""
    names = [case.name for case in cases]
    assert len(set(names)) == len(names), f"two cases of one name: {sorted(names)}"
    return pytest.mark.parametrize("case", cases, ids=names)


@cache
def _captured(case: Case) -> CapturedModule:
    """A case as a graph; capturing takes longer than all that is done with it."""
    return captured(case.function, *case.tensors)


def types(case: Case) -> tuple[str, ...]:
    """The types of the operations that a case performs."""
    return tuple(op.type for op in _captured(case).graph.ops)


def check(case: Case) -> None:
    """The rules of a case are neither wrong nor stricter than need be."""
    made = _captured(case)
    check_graph(made.graph, made.flat_inputs(), made.graph.engine)
    found = missed_in_graph(made.graph, made.flat_inputs())
    assert bool(found) == case.missed, found

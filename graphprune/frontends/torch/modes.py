"""modes: a module's own code in training mode.

A capture follows evaluation. Code that asks for the mode may do more in training, with widths that
evaluation never meets: it takes part in the analysis, and where the original runs there, so must
the smaller module.
"""

from __future__ import annotations

import dis
from collections import Counter
from itertools import pairwise
from types import CodeType
from typing import Any

import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode
from torch.utils import _pytree as pytree

from graphprune.core.errors import VerifyError
from graphprune.core.program import Inputs
from graphprune.frontends.torch.rejects import rejects
from graphprune.frontends.torch.tables import own_code

_MODE = "training"  # the attribute that code asks
# What follows where it is asked for a branch, in the names of all Pythons' instructions.
_BRANCHES = ("JUMP", "TO_BOOL", "NOT", "COPY")
_LOOKS = (torch.Size, torch.dtype, torch.device, bool, int, type(None))  # no new numbers


def asks(model: nn.Module) -> bool:
    """Whether a module's code asks for the mode, PyTorch's layers apart."""
    return any(_MODE in code.co_names for code in own_code(model))


def differs(model: nn.Module, inputs: Inputs) -> bool:
    """Whether a module's code computes something else in training mode, on tensors without values.

    Code that branches on the mode is run in both. What concerns whole samples, such as layers that
    are left out at random, does not count.

    Args:
        model: The module.
        inputs: Example inputs.
    """
    if not any(_branches(code) for code in own_code(model)):
        return False
    modes: list[Counter[str]] = []
    for training in (False, True):
        with _Functions() as seen:
            if rejects(model, inputs, training) is not None:
                return False
        modes.append(seen.counts)
    return modes[0] != modes[1]


def _branches(code: CodeType) -> bool:
    """Whether code does one thing or another by the mode; most only pass it on, to a dropout."""
    if _MODE not in code.co_names:
        return False
    steps = list(dis.get_instructions(code))
    return any(
        step.argval == _MODE and any(word in after.opname for word in _BRANCHES)
        for step, after in pairwise(steps)
    )


class _Functions(TorchFunctionMode):
    """Counts the calls of functions whose floating-point operands all have features.

    What only looks at a tensor, or makes one of its shape, is left out.
    """

    def __init__(self) -> None:
        super().__init__()
        self.counts: Counter[str] = Counter()

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = func(*args, **(kwargs or {}))
        name = getattr(func, "__name__", str(func))
        if name != "__get__" and not name.startswith("new_") and not isinstance(result, _LOOKS):
            leaves = pytree.tree_leaves((args, kwargs))
            tensors = [x for x in leaves if isinstance(x, Tensor) and x.is_floating_point()]
            if tensors and all(isinstance(x, nn.Parameter) or _has_features(x) for x in tensors):
                self.counts[name] += 1
        return result


def _has_features(x: Tensor) -> bool:
    return sum(size > 1 for size in x.shape) > 1


def check_training(model: nn.Module, small: nn.Module, inputs: Inputs) -> None:
    """See that a smaller module takes in training mode what the original takes there.

    Both run on tensors without values. Modules whose code does not ask for the mode, PyTorch's
    layers apart, are not run.

    Args:
        model: The original.
        small: The smaller module.
        inputs: Example inputs.

    Raises:
        VerifyError: The original runs in training mode, the smaller module does not.
    """
    if not asks(model):
        return
    try:
        why = rejects(small, inputs, training=True)
    except NotImplementedError:  # an exported program has one mode
        return
    if why is not None and rejects(model, inputs, training=True) is None:
        what = f"the smaller {type(small).__name__} does not run in training mode: {why}"
        raise VerifyError(what, "", float("inf"))

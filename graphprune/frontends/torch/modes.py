"""modes: a smaller module's own code in training mode.

A capture follows evaluation. Code that asks for the mode may do more in training, with widths that
evaluation never meets: where the original runs there, so must the smaller module.
"""

from __future__ import annotations

from torch import nn

from graphprune.core.errors import VerifyError
from graphprune.core.program import Inputs
from graphprune.frontends.torch.rejects import rejects
from graphprune.frontends.torch.tables import own_code

_MODE = "training"  # the attribute that code asks


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
    if not any(_MODE in code.co_names for code in own_code(model)):
        return
    try:
        why = rejects(small, inputs, training=True)
    except NotImplementedError:  # an exported program has one mode
        return
    if why is not None and rejects(model, inputs, training=True) is None:
        what = f"the smaller {type(small).__name__} does not run in training mode: {why}"
        raise VerifyError(what, "", float("inf"))

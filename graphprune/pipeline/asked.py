"""What the caller asks for."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

from graphprune.choice.request import Request
from graphprune.compensation.options import Options
from graphprune.core.program import Inputs
from graphprune.importance import Criterion, Loss
from graphprune.sparsity.request import Sparsity


@dataclass
class Asked:
    """What the caller asks for.

    Attributes:
        request: Costs, ratios, and how they are spread over the groups.
        options: How what is removed is made up for.
        keep: Name patterns of what stays as it is.
        importance: A criterion, or its name.
        loss: For criteria that follow gradients.
        reduction: How contributions become one score.
        inputs: The caller's example inputs.
        verify: Whether the result is checked.
        seed: For whatever is drawn.
        sparsity: How many numbers become zero, which, and how they may lie.
        assume: What tells which channels are constant beside the weights: `"statistics"` of batch
            norms, `"data"`, or nothing.
        call: The call in words, for the report.
        released: Name patterns of ranks of adapters that may shrink, for they were asked for.
    """

    request: Request = field(default_factory=Request)
    options: Options = field(default_factory=Options)
    keep: Sequence[str] = ()
    importance: str | Criterion = "auto"
    loss: Loss | None = None
    reduction: str = "sum"
    inputs: Inputs | None = None
    verify: bool = True
    seed: int = 0
    sparsity: Sparsity = field(default_factory=Sparsity)
    assume: str = ""
    call: str = ""
    released: Sequence[str] = ()

"""The smaller module, and what became of its code."""

from __future__ import annotations

from dataclasses import dataclass, field

from torch import nn

from graphprune.frontends.torch.fold import Fold


@dataclass
class Lowered:
    """The smaller module.

    Attributes:
        model: The module.
        replaced: Paths of submodules that are generated code now, with the reason; the path ""
            means the whole model.
        edits: Attributes with new values, as `path.attribute`.
        folds: Scales folded into weights.
        inline: Whether generated code repeats what modules do instead of calling them.
        gap: By how much it differs from the narrowed graph; None where that was not looked at.
    """

    model: nn.Module
    replaced: dict[str, str] = field(default_factory=dict)
    edits: dict[str, int] = field(default_factory=dict)
    folds: list[Fold] = field(default_factory=list)
    inline: bool = False
    gap: float | None = None

    @property
    def folded(self) -> list[str]:
        """Names of the weights into which a scale was folded."""
        return [fold.weight.name for fold in self.folds]

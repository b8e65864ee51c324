"""What a module's code can express of a choice."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from graphprune.core.cuts import Cuts
from graphprune.core.relations import Mismatch
from graphprune.frontends.torch.config import Fit
from graphprune.frontends.torch.survey import Survey


@dataclass
class ExpressedModule:
    """What a module's code can express of a choice.

    Attributes:
        cuts: The choice.
        survey: What guided passes through the code found.
        fit: How well the module's config can describe the choice; None without a config.
        guessed: Whether guesses of attributes helped, now or for an earlier choice.
        uncached: Lengths that were equal and are so no more, where a cache fails at that.
    """

    cuts: Cuts
    survey: Survey
    fit: Fit | None = None
    guessed: bool | None = None
    uncached: Sequence[Mismatch] = ()

    @property
    def offenders(self) -> Mapping[str, str]:
        """Paths of modules whose code cannot express the choice, with the reason."""
        return self.survey.offenders

    @property
    def wrong(self) -> int:
        """Twice the modules that fail, one for a config that does not fit, one for a cache."""
        unfit = self.fit is not None and not self.fit.fits
        return 2 * len(self.offenders) + unfit + bool(self.uncached)

    @property
    def mismatches(self) -> Sequence[Mismatch]:
        """Lengths that the code took for others, in a cache too."""
        return [*self.survey.mismatches, *self.uncached]

    @property
    def wishes(self) -> Sequence[Mismatch]:
        """Lengths that the config takes for others."""
        return self.fit.mismatches if self.fit else []

"""configured: what the config and the cache of a model ask of a choice, and how they are told."""

from __future__ import annotations

from graphprune.frontends.torch.cached import cache_edits, fails_cached, unequal
from graphprune.frontends.torch.captured import CapturedModule
from graphprune.frontends.torch.config import UNTOLD, Fit, describe, fit_config
from graphprune.frontends.torch.expressed import ExpressedModule
from graphprune.frontends.torch.lowered import Lowered

_CACHED = (
    "with the cache that it makes by default the smaller model does not run: {}; call it with "
    "use_cache=False, or pass keep=[...] with the layers that the cache serves"
)


class Described:
    """A module that a config describes, and the choices that are made for it.

    Args:
        captured: The captured module.
        warnings: Where to tell what the config and the cache cannot follow.
    """

    def __init__(self, captured: CapturedModule, warnings: list[str]) -> None:
        self._captured, self._warnings = captured, warnings
        self._fit: Fit | None = None  # of the last choice; what it learned serves the next
        self._caches = False  # whether a cache was seen to take lengths that are equal no more

    def ask(self, found: ExpressedModule) -> None:
        """Add to what code can express of a choice what the config and the cache can."""
        model, cuts, survey = self._captured.model, found.cuts, found.survey
        found.fit = self._fit = fit_config(model, cuts, survey.edits, self._fit)
        if not self._caches:
            asked = unequal(self._captured, survey, found.fit.values)
            found.uncached, self._caches = asked or (), asked == []

    def tell(self, found: ExpressedModule, made: Lowered) -> None:
        """Give the smaller module's config and cache its new sizes, or say that they cannot."""
        fit = found.fit
        inputs = self._captured.given or self._captured.inputs
        if fit is not None:
            told = not made.replaced and fit.shaped and describe(made.model, fit.values, inputs)
            if not told:
                self._warn(UNTOLD)
        if self._captured.original is None:
            why = fails_cached(self._captured.model, made.model, self._captured.inputs)
            if why and cache_edits(self._captured, found.cuts, made.model) is None:
                self._warn(_CACHED.format(why))

    def _warn(self, text: str) -> None:
        if text not in self._warnings:  # a plan may be applied again
            self._warnings.append(text)

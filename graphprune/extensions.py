"""Extensions: modules of others that register rules, criteria, costs, passes and frontends.

A package names such a module as an entry point of the group `graphprune.extensions`; it is imported
once, when graphprune first looks at a model. A module can also be named where it is wanted
(`--extension pkg.mod`). Example, in the package's pyproject.toml::

    [project.entry-points."graphprune.extensions"]
    mine = "my_package.for_graphprune"
"""

from __future__ import annotations

import importlib
import sys
import warnings
from functools import lru_cache
from importlib import metadata

from graphprune.core.errors import GraphPruneError, named_line

GROUP = "graphprune.extensions"
"""The group of entry points."""

_seen: set[str] = set()


def load_installed() -> None:
    """Import the extensions of all installed packages, each once.

    One that fails is named in a warning: what does not need it goes on working.
    """
    for point in _points(tuple(sys.path)):
        if point.value in _seen:
            continue
        _seen.add(point.value)
        try:
            point.load()
        except Exception as error:
            owner = "" if point.dist is None else f" of {point.dist.name}"
            warnings.warn(
                f"the graphprune extension {point.name!r}{owner} ({point.value}) cannot be loaded: "
                f"{named_line(error)}",
                stacklevel=2,
            )


@lru_cache(maxsize=1)
def _points(_: tuple[str, ...]) -> tuple[metadata.EntryPoint, ...]:
    """The entry points of the packages on a path; they are looked for once."""
    return tuple(metadata.entry_points(group=GROUP))


def load_extension(name: str) -> None:
    """Import one module that registers something.

    Raises:
        GraphPruneError: It cannot be imported; says why.
    """
    if "" not in sys.path:
        sys.path.insert(0, "")
    try:
        importlib.import_module(name)
    except Exception as error:
        raise GraphPruneError(f"cannot load extension {name!r}: {named_line(error)}") from error

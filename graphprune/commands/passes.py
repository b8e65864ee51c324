"""`graphprune passes`."""

from __future__ import annotations

import typer

from graphprune.commands.options import Extension, load_extensions


def passes(extension: Extension = None) -> None:
    """List the passes, those of extensions too."""
    from graphprune.extensions import load_installed
    from graphprune.pipeline import PASSES
    from graphprune.pipelines import DEFAULT

    load_installed()
    load_extensions(extension)
    usual = {step.name for step in DEFAULT}
    width = max(map(len, PASSES))
    for name, kind in sorted(PASSES.items()):
        line = (kind.__doc__ or "").strip().partition("\n")[0]
        typer.echo(f"{name:{width}}  {line}{'' if name in usual else ' (on request)'}")

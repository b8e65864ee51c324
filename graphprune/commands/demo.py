"""`graphprune demo`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer


def demo(
    out: Annotated[Path, typer.Option(help="folder for the results")] = Path("graphprune-demo"),
    ratio: Annotated[float, typer.Option(help="fraction of the parameters to remove")] = 0.5,
    epochs: Annotated[int, typer.Option(min=1, help="epochs of training")] = 10,
) -> None:
    """Train a small network on real digits, shrink it, and write the result."""
    from graphprune.commands.printing import console
    from graphprune.demo import run

    run(out, ratio, epochs, console(stderr=False))

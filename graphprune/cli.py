"""The command line. Human text goes to stderr where `--json` puts data on stdout.

Exit codes: 0 ok, 1 verification failed, 2 usage, file or model, 3 budget unreachable.
"""

from __future__ import annotations

import sys
from typing import Annotated

import typer

from graphprune.commands.compact import compact
from graphprune.commands.demo import demo
from graphprune.commands.deploy import deploy
from graphprune.commands.inspect import inspect
from graphprune.commands.passes import passes
from graphprune.commands.quantise import quantise
from graphprune.commands.report import report
from graphprune.commands.shrink import shrink
from graphprune.commands.sparsify import sparsify
from graphprune.commands.verify import verify
from graphprune.version import __version__

COMMANDS = (shrink, compact, sparsify, deploy, quantise, report, verify, inspect, passes, demo)
"""The commands, in the order in which `--help` lists them; each has a file of its own."""

app = typer.Typer(
    help="Shrink neural networks for deployment.", no_args_is_help=True, add_completion=False
)
for _command in COMMANDS:
    app.command()(_command)


def _version(wanted: bool) -> None:
    if wanted:
        typer.echo(f"graphprune {__version__}")
        raise typer.Exit


@app.callback()
def _common(
    version: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="print the version")
    ] = False,
) -> None:
    """Shrink neural networks for deployment."""


def main() -> None:
    """Run the command line; graphprune's own errors become one line and an exit code."""
    from graphprune.core.errors import BudgetError, GraphPruneError, VerifyError

    try:
        app()
    except GraphPruneError as error:
        typer.echo(f"error: {error}", err=True)
        codes = {VerifyError: 1, BudgetError: 3}
        sys.exit(next((c for kind, c in codes.items() if isinstance(error, kind)), 2))

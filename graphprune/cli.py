"""The command line. Human text goes to stderr where `--json` puts data on stdout.

Exit codes: 0 ok, 1 verification failed, 2 usage, file or model, 3 budget unreachable, 130 stopped.
"""

from __future__ import annotations

import logging
import sys
from collections.abc import Callable
from functools import partial, wraps
from typing import Annotated, Any

import typer

from graphprune.commands.compact import compact
from graphprune.commands.demo import demo
from graphprune.commands.deploy import deploy
from graphprune.commands.explore import sensitivity, sweep
from graphprune.commands.factor import factor
from graphprune.commands.inspect import inspect
from graphprune.commands.passes import passes
from graphprune.commands.printing import be_quiet
from graphprune.commands.quantise import quantise
from graphprune.commands.report import report
from graphprune.commands.shrink import shrink
from graphprune.commands.sparsify import sparsify
from graphprune.commands.verify import verify
from graphprune.version import __version__

COMMANDS = (
    shrink, compact, factor, sparsify, deploy, quantise, report, verify, inspect, sensitivity,
    sweep, passes, demo,
)  # fmt: skip
"""The commands, in the order in which `--help` lists them; each has a file of its own."""

_STOPPED = 130  # what shells give for an end by Ctrl-C

app = typer.Typer(help="Shrink neural networks for deployment.", no_args_is_help=True)


def _stoppable(command: Callable[..., None]) -> Callable[..., None]:
    """Let Ctrl-C end a command with a word on what is kept."""

    @wraps(command)
    def run(**given: Any) -> None:
        try:
            command(**given)
        except KeyboardInterrupt as error:
            kept = "; ".join(["no file is left half written", *map(str, error.args)])
            typer.echo(f"stopped: {kept}", err=True)
            raise typer.Exit(_STOPPED) from None

    return run


for _command in COMMANDS:
    app.command()(_stoppable(_command))


def _version(wanted: bool) -> None:
    if wanted:
        typer.echo(f"graphprune {__version__}")
        raise typer.Exit


@app.callback()
def _common(
    context: typer.Context,
    version: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="print the version")
    ] = False,
    quiet: Annotated[
        bool, typer.Option("-q", "--quiet", help="print data and errors only")
    ] = False,
    verbose: Annotated[
        bool, typer.Option("-v", "--verbose", help="say on stderr what is assumed and decided")
    ] = False,
) -> None:
    """Shrink neural networks for deployment."""
    be_quiet(quiet)
    context.call_on_close(partial(be_quiet, False))
    if verbose:
        context.call_on_close(_telling())


def _telling() -> Callable[[], None]:
    """Let the log be seen on stderr; what is returned ends that."""
    log, shown = logging.getLogger("graphprune"), logging.StreamHandler(sys.stderr)
    shown.setFormatter(logging.Formatter("%(message)s"))
    before = log.level
    log.addHandler(shown)
    log.setLevel(logging.INFO)

    def end() -> None:
        log.removeHandler(shown)
        log.setLevel(before)

    return end


def main() -> None:
    """Run the command line; graphprune's own errors become one line and an exit code."""
    from graphprune.core.errors import BudgetError, GraphPruneError, VerifyError

    try:
        app(prog_name="graphprune")  # `python -m graphprune` is told to shells so too
    except GraphPruneError as error:
        typer.echo(f"error: {error}", err=True)
        codes = {VerifyError: 1, BudgetError: 3}
        sys.exit(next((c for kind, c in codes.items() if isinstance(error, kind)), 2))

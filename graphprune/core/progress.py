"""A progress bar with the remaining time, where somebody looks and it takes long enough."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from typing import TypeVar

from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn, track

T = TypeVar("T")

PATIENCE = 3.0  # seconds before a bar appears


@contextmanager
def progress(label: str) -> Iterator[Callable[[float], None]]:
    """Show how far some work is.

    The bar appears on a terminal only, and only once the work has taken a few seconds.

    Args:
        label: What is being done.

    Yields:
        A function to call with the share of the work that is done, in [0, 1].
    """
    console = Console(stderr=True)
    columns = (TextColumn("{task.description}"), BarColumn(), TimeRemainingColumn())
    bar = Progress(*columns, console=console, transient=True)
    task = bar.add_task(label, total=1.0)
    start = time.monotonic()

    def advance(share: float) -> None:
        bar.update(task, completed=share)
        if not bar.live.is_started and time.monotonic() - start > PATIENCE:
            bar.start()

    try:
        yield advance if console.is_terminal else lambda _: None
    finally:
        bar.stop()


def tracked(items: Iterable[T], label: str, total: int) -> Iterator[T]:
    """The items, with a progress bar on stderr where that is a terminal."""
    console = Console(stderr=True)
    yield from track(
        items, label, total, console=console, transient=True, disable=not console.is_terminal
    )

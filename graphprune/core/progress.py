"""A progress bar with the remaining time, where somebody looks and it takes long enough.

On a terminal rich draws it; in a notebook it is a line of HTML, which needs no widgets. Elsewhere
nothing is printed.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from html import escape
from importlib import import_module
from typing import Any, TypeVar

from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn

T = TypeVar("T")

PATIENCE = 3.0  # seconds before a bar appears
_OFTEN = 0.5  # seconds between two pictures of it in a notebook


@contextmanager
def progress(label: str) -> Iterator[Callable[[float], None]]:
    """Show how far some work is.

    The bar appears on a terminal or in a notebook only, and only once the work has taken a few
    seconds.

    Args:
        label: What is being done.

    Yields:
        A function to call with the share of the work that is done, in [0, 1].
    """
    console = Console(stderr=True)
    bar: _Terminal | _Notebook
    if console.is_jupyter:
        bar = _Notebook(label)
    elif console.is_terminal:
        bar = _Terminal(label, console)
    else:
        yield lambda _: None
        return
    start = time.monotonic()

    def advance(share: float) -> None:
        taken = time.monotonic() - start
        if taken > PATIENCE:
            bar.show(share, taken)

    try:
        yield advance
    finally:
        bar.close()


class _Terminal:
    """A bar of rich's."""

    def __init__(self, label: str, console: Console) -> None:
        columns = (TextColumn("{task.description}"), BarColumn(), TimeRemainingColumn())
        self._bar = Progress(*columns, console=console, transient=True)
        self._task = self._bar.add_task(label, total=1.0)

    def show(self, share: float, taken: float) -> None:
        self._bar.update(self._task, completed=share)
        if not self._bar.live.is_started:
            self._bar.start()

    def close(self) -> None:
        if self._bar.live.is_started:
            self._bar.stop()


class _Notebook:
    """A line in the cell's output, drawn anew."""

    def __init__(self, label: str) -> None:
        self._label = label
        self._display: Any = None
        self._last = 0.0

    def show(self, share: float, taken: float) -> None:
        if taken - self._last < _OFTEN:
            return
        self._last = taken
        left = f", about {taken * (1 - share) / share:.0f} s left" if share > 0 else ""
        self._draw(
            f'<progress max="1" value="{share:.3f}"></progress> '
            f"{escape(self._label)}: {share:.0%}{left}"
        )

    def close(self) -> None:
        if self._display is not None:
            self._draw("")

    def _draw(self, text: str) -> None:
        tools = import_module("IPython.display")
        if self._display is None:
            self._display = tools.display(tools.HTML(text), display_id=True)
        else:
            self._display.update(tools.HTML(text))


def tracked(items: Iterable[T], label: str, total: int) -> Iterator[T]:
    """The items, with a progress bar where somebody looks."""
    with progress(label) as advance:
        for number, item in enumerate(items, 1):
            yield item
            advance(number / max(total, 1))

"""What is said while work goes on: how long it takes, how far it is, what is kept of it.

A bar with the remaining time shows where somebody looks and it takes long enough. On a terminal
rich draws it; in a notebook it is a line of HTML, which needs no widgets. Elsewhere nothing is
printed; whoever listens to the log at INFO reads the estimates there.
"""

from __future__ import annotations

import logging
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
LONG = 10.0  # seconds from which on it is said beforehand how long something takes
_FIRST = 1.0  # seconds that must have passed before the speed of the first steps is taken for all
_OFTEN = 0.5  # seconds between two pictures of a bar in a notebook
_MINUTE, _HOUR = 60, 3600
_SECONDS_MOST, _MINUTES_MOST = 100, 100  # what is told in seconds, and in minutes

_log = logging.getLogger("graphprune")
_silent = False
_bars = 0  # that are open: of bars within a bar only the outermost shows


def be_silent(wanted: bool) -> None:
    """Whether neither bars nor estimates are shown from now on; the log tells them all the same."""
    global _silent
    _silent = wanted


def duration(seconds: float) -> str:
    """A time in words, as exact as an estimate is.

    Examples:
        >>> duration(14.2), duration(130), duration(9000)
        ('14 s', '2 min', '2.5 h')
    """
    if seconds < _SECONDS_MOST:
        return f"{max(seconds, 1):.0f} s"
    if seconds < _MINUTES_MOST * _MINUTE:
        return f"{seconds / _MINUTE:.0f} min"
    return f"{seconds / _HOUR:.1f} h"


def announce(text: str) -> None:
    """Say something in a line: in the log at INFO, and on a terminal or in a notebook.

    Where the log is shown already, it is not said twice.
    """
    _log.info(text)
    if _silent or (_log.isEnabledFor(logging.INFO) and _log.hasHandlers()):
        return
    console = Console(stderr=True)
    if console.is_jupyter:
        tools = import_module("IPython.display")
        tools.display(tools.HTML(f"<p>{escape(text)}</p>"))
    elif console.is_terminal:
        console.print(text, highlight=False, markup=False, soft_wrap=True)


@contextmanager
def interruptible(kept: Callable[[], str]) -> Iterator[None]:
    """Let the `KeyboardInterrupt` of Ctrl-C, or of a notebook's cell, say what is kept of the work.

    Args:
        kept: What is kept, in a sentence.
    """
    try:
        yield
    except KeyboardInterrupt as error:
        error.args = (kept(),)  # of works within works the outermost tells: it is what goes on
        raise


@contextmanager
def progress(
    label: str, after: float | None = None, encloses: bool = True
) -> Iterator[Callable[[float], None]]:
    """Show how far some work is, and for how long it goes on.

    The bar appears on a terminal or in a notebook only, and only once the work has taken a few
    seconds. If the speed of the first steps tells that all take long, it is said in a line.

    Args:
        label: What is being done.
        after: Estimated seconds of what follows it, where the time of all was told beforehand:
            the bar then tells what is left of all, and nothing is said of this part.
        encloses: Whether bars of what happens meanwhile are left out.

    Yields:
        A function to call with the share of the work that is done, in [0, 1].
    """
    global _bars
    bar = None if _bars or _silent else _bar(label, after or 0.0)
    start, told = time.monotonic(), after is not None or _bars > 0

    def advance(share: float) -> None:
        nonlocal told
        taken = time.monotonic() - start
        if not told and share > 0 and taken > _FIRST:
            told = True
            if taken / share > LONG and share < 1:
                announce(f"{label}: about {duration(taken / share)}, by the speed of the first")
        if bar is not None and taken > PATIENCE:
            bar.show(share, taken)

    _bars += encloses
    try:
        yield advance
    finally:
        _bars -= encloses
        if bar is not None:
            bar.close()


def _bar(label: str, after: float) -> _Terminal | _Notebook | None:
    """A bar for whoever looks, or None."""
    console = Console(stderr=True)
    if console.is_jupyter:
        return _Notebook(label, after)
    return _Terminal(label, console, after) if console.is_terminal else None


def _left(share: float, taken: float, after: float) -> str:
    """What is left of all work, in words; empty where nothing is known."""
    return "" if share <= 0 else f"about {duration(taken * (1 - share) / share + after)} left"


class _Terminal:
    """A bar of rich's."""

    def __init__(self, label: str, console: Console, after: float) -> None:
        self._after = after
        left = TextColumn("{task.fields[left]}") if after else TimeRemainingColumn()
        columns = (TextColumn("{task.description}"), BarColumn(), left)
        self._bar = Progress(*columns, console=console, transient=True)
        self._task = self._bar.add_task(label, total=1.0, left="")

    def show(self, share: float, taken: float) -> None:
        left = f"{_left(share, taken, self._after)} in all" if self._after and share else ""
        self._bar.update(self._task, completed=share, left=left)
        if not self._bar.live.is_started:
            self._bar.start()

    def close(self) -> None:
        if self._bar.live.is_started:
            self._bar.stop()


class _Notebook:
    """A line in the cell's output, drawn anew."""

    def __init__(self, label: str, after: float) -> None:
        self._label, self._after = label, after
        self._display: Any = None
        self._last = 0.0

    def show(self, share: float, taken: float) -> None:
        if taken - self._last < _OFTEN:
            return
        self._last = taken
        left = _left(share, taken, self._after)
        left = f", {left}{' in all' if self._after else ''}" if left else ""
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
    # The caller may leave the loop for good, and then no one closes the bar at once.
    with progress(label, encloses=False) as advance:
        for number, item in enumerate(items, 1):
            yield item
            advance(number / max(total, 1))

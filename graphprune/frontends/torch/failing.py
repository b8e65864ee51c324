"""Where the caller's code fails at new widths, in words."""

from __future__ import annotations

import traceback
from pathlib import Path

import torch

_OURS = str(Path(__file__).parents[2])
_TORCH = str(Path(torch.__file__).parent)
_LONGEST = 60  # characters of a line of code that a report shows


def failing(error: Exception) -> str:
    """Which line of the caller's code an error comes from, for a report.

    The innermost line that is neither torch's nor this package's is meant. Where a layer of torch
    fails by itself, it is the line of its `forward`.

    Args:
        error: What the code raised, with its traceback.
    """
    frames = _frames(error)
    own = [f for f in frames if not _in(f, _TORCH)]
    forwards = [f for f in frames if f.name == "forward"]
    frame = next(iter(own[-1:] or forwards[-1:] or frames[:1]), None)
    if frame is None:
        return f"its code raises {type(error).__name__} at the new widths"
    return f"its code fails at the new widths in {_line(frame)}"


def located(error: Exception) -> str | None:
    """The innermost line of the caller's code that an error comes from; None where there is none.

    Args:
        error: What the code raised, with its traceback.
    """
    own = [f for f in _frames(error) if not _in(f, _TORCH)]
    return _line(own[-1]) if own else None


def _frames(error: Exception) -> list[traceback.FrameSummary]:
    """The calls that led to an error, but for this package's own."""
    return [f for f in traceback.extract_tb(error.__traceback__) if not _in(f, _OURS)]


def _line(frame: traceback.FrameSummary) -> str:
    """A line of code, and where it stands."""
    code = frame.line or ""
    shown = code if len(code) <= _LONGEST else f"{code[:_LONGEST]}..."
    where = f"line {frame.lineno} of {Path(frame.filename).name}"
    return where + (f": {shown}" if shown else "")


def _in(frame: traceback.FrameSummary, folder: str) -> bool:
    return frame.filename.startswith(folder)

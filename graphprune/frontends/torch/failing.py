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
    frames = [f for f in traceback.extract_tb(error.__traceback__) if not _in(f, _OURS)]
    own = [f for f in frames if not _in(f, _TORCH)]
    forwards = [f for f in frames if f.name == "forward"]
    frame = next(iter(own[-1:] or forwards[-1:] or frames[:1]), None)
    if frame is None:
        return f"its code raises {type(error).__name__} at the new widths"
    code = frame.line or ""
    shown = code if len(code) <= _LONGEST else f"{code[:_LONGEST]}..."
    where = f"line {frame.lineno} of {Path(frame.filename).name}"
    return f"its code fails at the new widths in {where}" + (f": {shown}" if shown else "")


def _in(frame: traceback.FrameSummary, folder: str) -> bool:
    return frame.filename.startswith(folder)

"""scalars: numbers of work that goes step by step, to TensorBoard or to the log.

A writer is whatever has `add_scalar(name, value, step)`: `torch.utils.tensorboard.SummaryWriter`,
tensorboardX's, or a few lines around another tracker.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping
from typing import Any, Protocol

from graphprune.core.errors import OptionError

_log = logging.getLogger("graphprune")


class Writer(Protocol):
    """What takes a number with its name and step."""

    def add_scalar(self, tag: str, scalar_value: float, global_step: int, /) -> Any:
        """Take a number."""


class Logged:
    """A writer to `logging.getLogger("graphprune")`, a line each at INFO."""

    def add_scalar(self, tag: str, scalar_value: float, global_step: int, /) -> None:
        """Log a number."""
        _log.info("%s at step %d: %.6g", tag, global_step, scalar_value)


def writer_of(given: Any) -> Writer:
    """The caller's writer, or the log where there is none.

    Raises:
        OptionError: It has no `add_scalar`.
    """
    if given is None:
        return Logged()
    if not callable(getattr(given, "add_scalar", None)):
        raise OptionError(
            "log= takes what has add_scalar(name, value, step), such as "
            f"torch.utils.tensorboard.SummaryWriter, not {given!r}"
        )
    writer: Writer = given
    return writer


def tell(writer: Writer, place: str, values: Mapping[str, float], step: int) -> None:
    """Write numbers under the name of what they belong to: `gradual/removed`."""
    for name, value in values.items():
        writer.add_scalar(f"{place}/{name}", float(value), step)

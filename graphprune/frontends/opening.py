"""Opening a model of any kind: the first frontend that reads it captures it.

A frontend is an object with a name that says which models it reads and opens them as a `Program`.
Others than the two here are registered by `frontend`, and asked first.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol, TypeVar

from graphprune.core.batch import Batch
from graphprune.core.errors import GraphPruneError, OptionError
from graphprune.core.program import Inputs, Program
from graphprune.frontends.onnx import is_onnx


@dataclass
class Opened:
    """A captured model.

    Attributes:
        program: The captured model.
        batches: The caller's data as batches; empty where there are none.
        patterns: Turns what the caller names layers by (text, module types, modules) into name
            patterns; takes the option's name, for errors.
        seconds: Time of each stage.
    """

    program: Program
    batches: Sequence[Batch]
    patterns: Callable[[Any, str], list[str]]
    seconds: dict[str, float] = field(default_factory=dict)


class Frontend(Protocol):
    """Reads one kind of model.

    Attributes:
        name: What it reads, for errors: "a torch.nn.Module".
    """

    name: str

    def reads(self, model: Any) -> bool:
        """Whether a model is of this kind; told without importing heavy packages."""

    def open(self, model: Any, inputs: Inputs | None, data: Any, samples: int) -> Opened:
        """Capture a model.

        Args:
            model: The model; only ever read.
            inputs: Example inputs, or None to find some.
            data: Calibration data, or None.
            samples: How many samples of them are wanted.

        Raises:
            LiftError: The model cannot be captured.
        """


class _Onnx:
    name = "an ONNX model"

    def reads(self, model: Any) -> bool:
        return is_onnx(model)

    def open(self, model: Any, inputs: Inputs | None, data: Any, samples: int) -> Opened:
        from graphprune.frontends.onnx.opening import open_file

        program, batches, seconds = open_file(model, inputs, data, samples)
        return Opened(program, batches, _names, seconds)


class _Torch:
    name = "a torch.nn.Module or an exported program (.pt2)"

    def reads(self, model: Any) -> bool:
        from graphprune.frontends.torch.opening import is_module

        return is_module(model)

    def open(self, model: Any, inputs: Inputs | None, data: Any, samples: int) -> Opened:
        from graphprune.frontends.torch.opening import module_patterns, open_module

        program, batches, seconds = open_module(model, inputs, data, samples)
        whole = program.model if program.original is None else program.original
        return Opened(program, batches, lambda item, at: module_patterns(whole, item, at), seconds)


F = TypeVar("F", bound=Frontend)

_BUILT_IN: tuple[Frontend, ...] = (_Onnx(), _Torch())
_FRONTENDS: list[Frontend] = []


def frontend(reader: type[F]) -> type[F]:
    """Register a class as a frontend; it is asked before those that were there earlier.

    Raises:
        GraphPruneError: It lacks a name, `reads` or `open`.

    Example::

        @graphprune.frontend
        class Mine:
            name = "a model of mine"

            def reads(self, model): ...
            def open(self, model, inputs, data, samples): ...
    """
    for wanted in ("name", "reads", "open"):
        if not hasattr(reader, wanted):
            raise GraphPruneError(f"frontend {reader.__name__} lacks {wanted!r}")
    _FRONTENDS[:] = [held for held in _FRONTENDS if type(held).__name__ != reader.__name__]
    _FRONTENDS.insert(0, reader())
    return reader


def readable(model: Any) -> bool:
    """Whether some frontend reads a model."""
    return any(reader.reads(model) for reader in (*_FRONTENDS, *_BUILT_IN))


def open_model(
    model: Any, inputs: Inputs | None = None, data: Any = None, samples: int = 256
) -> Opened:
    """Capture a model of any kind.

    Args:
        model: A module, an exported program, an ONNX model, a path of one of the latter two, or
            whatever a registered frontend reads.
        inputs: Example inputs, or None to find some.
        data: Calibration data, or None.
        samples: How many samples of them are wanted.

    Raises:
        LiftError: The model cannot be captured.
        GraphPruneError: It is of no kind that can be read.
    """
    readers = (*_FRONTENDS, *_BUILT_IN)
    for reader in readers:
        if reader.reads(model):
            opened = reader.open(model, inputs, data, samples)
            opened.program.graph.name = opened.program.name
            return opened
    kinds = " or ".join(reader.name for reader in reversed(readers))
    raise GraphPruneError(f"{kinds} is needed, not a {type(model).__name__}")


def keyed(opened: Opened, given: Mapping[Any, Any] | None, option: str) -> dict[Any, Any]:
    """A mapping by layers, its keys turned into name patterns: several for a type of module."""
    out: dict[Any, Any] = {}
    for item, value in (given or {}).items():
        patterns = opened.patterns(item, option)
        out[patterns[0] if len(patterns) == 1 else tuple(patterns)] = value
    return out


def _names(given: Any, option: str) -> list[str]:
    """Name patterns for a file, whose parts have names only."""
    if given is not None and not isinstance(given, Collection):
        raise OptionError(f"{option}: a name pattern, or a list of them, is needed, not {given!r}")
    items: Collection[Any] = [given] if isinstance(given, str) else given or ()
    for item in items:
        if not isinstance(item, str):
            raise OptionError(
                f"{option}: an ONNX model has names, not {type(item).__name__} objects: {item!r}"
            )
    return list(items)

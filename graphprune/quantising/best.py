"""The kind of int8 that suits a file on this machine, of those that agree as well."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from graphprune.core.errors import GraphPruneError, first_line
from graphprune.core.groups import Dependencies
from graphprune.quantising.files import feed, quantised_file
from graphprune.quantising.quantised import Quantised

if TYPE_CHECKING:  # importing graphprune does not import onnx
    from onnx import ModelProto

FASTER = 1.1
"""Another kind is taken where it runs so many times as fast as the first: less is within what two
measurements of the same file differ by."""

SMALLER = 1.1
"""Or where it is no slower, within that, and takes so many times fewer bytes."""

ALIKE = 0.005
"""And where it keeps at most this share of the outputs' variation less."""

_log = logging.getLogger("graphprune")


def best(
    original: ModelProto, deps: Dependencies, seen: Any, held: Any, names: bool,
    kinds: Sequence[str],
) -> Quantised:  # fmt: skip
    """Quantise an ONNX model by the first kind, unless another is better.

    Norms, softmax and GELU have no int8 kernels: with fixed ranges each costs a way out of int8 and
    one back, so that a transformer may run slower than in floats. And where layers are narrow,
    kernels for floats are as fast.

    Args:
        original: The model.
        deps: Its analysis.
        seen: Calibration inputs, in chunks.
        held: Inputs to judge and to time by, in chunks.
        names: Whether inner values keep their names.
        kinds: What is tried, in this order; where one fails, the others are left.

    Raises:
        GraphPruneError: All kinds fail.
    """
    found: Quantised | None = None
    failed: GraphPruneError | None = None
    for kind in kinds:
        try:
            other = quantised_file(original, deps, seen, held, kind, names)
        except GraphPruneError as error:
            _log.info("no int8 of the kind %s: %s", kind, first_line(error))
            failed = failed or error
            continue
        if found is None or _is_better(found, other, feed(deps, held[0])):
            found = other
    if found is None:
        assert failed is not None
        raise failed
    return found


def _is_better(first: Quantised, other: Quantised, given: dict[str, Any]) -> bool:
    """Whether the other agrees as well and is faster, or as fast and smaller."""
    from graphprune.frontends.onnx.speed import speed

    if (other.kept or 0) < (first.kept or 0) - ALIKE:
        return False
    times = speed(first.model, other.model, given)
    if times is None:
        return False
    faster, smaller = times[0] / times[1], first.bytes[1] / other.bytes[1]
    return faster > FASTER or (faster > 1 / FASTER and smaller > SMALLER)

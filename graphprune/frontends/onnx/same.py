"""same: two files run on the same inputs, with the weights that they have."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
from onnx import ModelProto

from graphprune.core.errors import VerifyError
from graphprune.frontends.onnx.lift import LiftedFile
from graphprune.frontends.onnx.objects import apart as difference
from graphprune.frontends.onnx.sizes import inputs_for
from graphprune.frontends.onnx.whole import results, run_model

_LIMITS = {"float64": 1e-10, "float32": 1e-5, "float16": 5e-2, "bfloat16": 2e-1}
"""Largest relative differences, by the types of the results."""
_DRAWS = 3  # inputs for which the rounding of the file itself is measured
_STEP = 2.0**-22  # by which they are moved: a rounding of single precision
_MARGIN = 16.0  # times that rounding: a fault is not of its size


def apart(lifted: LiftedFile, small: ModelProto, seed: int) -> float:
    """The largest relative difference between two files' results, at both sizes of their inputs.

    Args:
        lifted: The file.
        small: The smaller file.
        seed: For the inputs.

    Raises:
        VerifyError: They differ by more than rounding explains.
    """
    worst = 0.0
    for number, types in enumerate(lifted.traces.inputs):
        if number and types == lifted.traces.inputs[0]:
            break
        given = inputs_for(types, lifted.examples, seed)
        expected = results(lifted.source, given)
        if expected is not None:  # the second sizes are only a guess
            worst = max(worst, _held_against(lifted, expected, small, given, seed))
    return worst


def apart_on(
    lifted: LiftedFile, small: ModelProto, given: Mapping[str, Any], seed: int
) -> float | None:
    """The largest relative difference between two files' results on these inputs alone.

    Args:
        lifted: The file.
        small: The smaller file.
        given: Inputs, by name.
        seed: For the measure of the file's own rounding.

    Returns:
        The difference; None where the file itself does not run on them.

    Raises:
        VerifyError: They differ by more than rounding explains.
    """
    expected = results(lifted.source, given)
    return None if expected is None else _held_against(lifted, expected, small, given, seed)


def _held_against(
    lifted: LiftedFile, expected: dict[str, Any], small: ModelProto, given: Any, seed: int
) -> float:
    names = [item.name for item in small.graph.output]
    if list(dict.fromkeys(names)) != list(expected):
        raise VerifyError("the smaller model has other outputs", "", float("inf"))
    worst = 0.0
    kinds = {value.name: value.dtype for value in lifted.graph.outputs}  # widened where it ran
    for name, b in zip(names, run_model(small, given), strict=True):
        a = expected[name]
        gap = difference(a, b)
        worst = max(worst, gap)
        limit = _LIMITS.get(kinds.get(name, ""), _LIMITS["float32"])
        if gap > limit and gap > _MARGIN * _rounding(lifted, given, name, a, seed):
            raise VerifyError(
                f"the smaller model differs from the given one at output {name}: largest "
                f"relative difference {gap:.3g}",
                name,
                gap,
            )
    return worst


def _rounding(lifted: LiftedFile, given: Any, name: str, expected: Any, seed: int) -> float:
    """How far the file's own results move with its inputs' last digits."""
    worst = 0.0
    for number in range(_DRAWS):
        draw = np.random.default_rng(seed + number)
        moved = {
            key: x * (1 + _STEP * draw.uniform(-1, 1, x.shape)).astype(x.dtype)
            if x.dtype.kind == "f"
            else x
            for key, x in given.items()
        }
        found = results(lifted.source, moved)
        if found is not None:
            worst = max(worst, difference(expected, found[name]))
    return worst


__all__ = ["apart", "apart_on"]

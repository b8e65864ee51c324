"""The rule checker for ONNX: *cut then op == op then cut* in the reference implementation."""

from __future__ import annotations

from typing import Any

from graphprune.engine.engine import Engine
from graphprune.frontends.onnx.execute import reference_engine, runtime_engine
from graphprune.frontends.onnx.lift import lift
from graphprune.frontends.onnx.model import read_model
from graphprune.testing.check import check_graph

REFERENCE = reference_engine()
RUNTIME = runtime_engine()


def check_model(model: Any, engine: Engine = REFERENCE, seed: int = 0) -> list[str]:
    """Check the rules of a model's operations, each by itself, nothing locked but by the rules.

    Args:
        model: A ModelProto or a path; small, with no two dimensions of the same length by chance.
        engine: The reference implementation in float64, or ONNX Runtime in float32.
        seed: For inputs and for the choice of indices.

    Returns:
        The types of the operations.

    Raises:
        VerifyError: A rule is wrong; names the operation, the axis and the largest difference.
        AxisError: An operation has no rule, or its rule does not fit the shapes.
    """
    lifted = lift(read_model(model), {})
    return check_graph(lifted.graph, lifted.flat_inputs(seed), engine, seed)

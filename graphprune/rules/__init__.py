"""Rules: how each operation relates the dimensions of its operands and results."""

from graphprune.rules import (
    attention,
    concat,
    contrib,
    conv,
    create,
    elementwise,
    index,
    loss,
    matmul,
    norm,
    pool,
    quantize,
    recurrent,
    reduce,
    reshape,
    spectrum,
)
from graphprune.rules.registry import axis_rule, infer, is_known, known_types

__all__ = [
    "attention",
    "axis_rule",
    "concat",
    "contrib",
    "conv",
    "create",
    "elementwise",
    "index",
    "infer",
    "is_known",
    "known_types",
    "loss",
    "matmul",
    "norm",
    "pool",
    "quantize",
    "recurrent",
    "reduce",
    "reshape",
    "spectrum",
]

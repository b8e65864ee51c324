"""Importance: how much each index of each coupled group matters.

A criterion is a function of a `Context` that gives contributions for each group, or simply a
function of one weight and one dimension; `@criterion("name")` makes it known by name.
"""

from graphprune.importance import activations, gradients, weights
from graphprune.importance.context import Context, Loss, Parts
from graphprune.importance.kernels import Scores
from graphprune.importance.registry import CRITERIA, Criterion, Named, criterion, find

__all__ = [
    "CRITERIA",
    "Context",
    "Criterion",
    "Loss",
    "Named",
    "Parts",
    "Scores",
    "activations",
    "criterion",
    "find",
    "gradients",
    "weights",
]

"""answers: which of a model's results are scores, so that the largest is its answer."""

from __future__ import annotations

from graphprune.core.groups import Dependencies
from graphprune.statistics.made.generate import table_rows


def scored(deps: Dependencies) -> list[bool]:
    """For each result whether it holds scores in its last dimension.

    Scores of classes are floating-point numbers `n x classes`. Scores of tokens are
    `n x positions x tokens`, with as many tokens as a table of embeddings that the model reads.
    """
    tables = {table_rows(deps, value) for value in deps.source.inputs} - {None}
    return [
        "float" in value.dtype
        and (
            (len(value.shape) == 2 and value.shape[1] > 1)
            or (len(value.shape) == 3 and value.shape[2] in tables)
        )
        for value in deps.source.outputs
    ]

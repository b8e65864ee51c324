"""All methods of the tables, by name."""

from __future__ import annotations

from typing import Any

from torch import Tensor, nn

import graphprune
from accuracy.peers import modelopt, torch_pruning
from accuracy.published import folding, grail, merging, obspa
from accuracy.subject import Method, Subject


def ours(**options: Any) -> Method:
    """`graphprune.shrink`; `real` passes the 256 inputs as data."""

    def prune(subject: Subject, of: str, ratio: float) -> nn.Module:
        given = {**options, "keep": subject.keep}
        if given.pop("real", False):
            given["data"] = [subject.inputs]
        return graphprune.shrink(subject.model, ratio, of, example_inputs=subject.example, **given)

    return prune


def _real(subject: Subject) -> Tensor:
    return subject.inputs


def _made(subject: Subject) -> Tensor:
    return subject.synthetic


METHODS: dict[str, Method] = {
    "graphprune, no data": ours(),
    "graphprune, 256 inputs": ours(real=True),
    "graphprune, not compensated": ours(compensate=False),
    "Torch-Pruning, group L2": torch_pruning("L2"),
    "Torch-Pruning, BN scale": torch_pruning("BN scale"),
    "Torch-Pruning, Taylor (256 labels)": torch_pruning("Taylor"),
    "neuron merging*": merging,
    "folding*": folding,
    "GRAIL-like*, no data": grail(_made),
    "GRAIL-like*, 256 inputs": grail(_real),
    "OBSPA-like*, no data": obspa(_made),
    "OBSPA-like*, 256 inputs": obspa(_real),
    "ModelOpt FastNAS (256 labels)": modelopt,
}
"""By name; * marks re-implementations of published methods."""

OPTIONAL = ("ModelOpt FastNAS (256 labels)",)
"""Run only where asked for: they need packages of their own."""

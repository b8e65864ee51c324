"""Recorded captures beside those of torch.export: the same graphs over whole sets of models.

    python tools/same_captures.py families hf plain torchvision

For each model: `same`, what differs first, or why it is exported. The exit code is 1 where a graph
differs.
"""

from __future__ import annotations

import argparse
import logging
import time
import warnings
from collections import Counter
from typing import Any

import torch
from torch import nn

from graphprune.core.errors import first_line
from graphprune.core.graph import Graph, Value
from graphprune.core.program import Inputs
from graphprune.engine.state import preserved, quiet
from graphprune.frontends.torch.calls import exported, recorded
from graphprune.frontends.torch.inputs import as_inputs, find_inputs
from graphprune.frontends.torch.lift import _program, without_cache
from graphprune.frontends.torch.traced import AUTOCAST


def described(graph: Graph) -> list[Any]:
    """All that a graph says, but for the names of results, which regions change."""
    results = [value for op in graph.ops for value in op.outputs]
    known = {value: i for i, value in enumerate(results)}

    def told(value: Value | None) -> Any:
        if value is None:
            return None
        return known.get(value, value.name), value.shape, value.dtype, value.kind, value.aliases

    weights = [
        (told(v), v.tensor.tolist() if v.kind == "constant" else id(v.tensor))
        for v in graph.weights.values()
    ]
    ops = [
        (
            *(op.type, op.module, str(op.attrs), str(op.source.target)),
            *(op.source.meta.get("torch_fn"), op.source.meta.get(AUTOCAST)),
            [told(v) for v in op.inputs],
            [told(v) for v in op.outputs],
        )
        for op in graph.ops
    ]
    ends = [[told(v) for v in held] for held in (graph.inputs, graph.outputs)]
    return [*ops, weights, *ends]


def captured(model: nn.Module, inputs: Inputs, capture: Any) -> tuple[Graph, float]:
    """A module's graph, and the processor seconds that it took."""
    with preserved(model), quiet():
        start = time.process_time()
        found = _program(model, inputs, capture).graph
        return found, time.process_time() - start


def compared(model: nn.Module, inputs: Inputs) -> tuple[str, str]:
    """`same`, `exported` or `DIFFERENT`, and more of it."""
    try:
        first, quick = captured(model, inputs, recorded)
    except Exception as error:
        return "exported", first_line(error)
    second, slow = captured(model, inputs, exported)
    mine, other = described(first), described(second)
    if mine == other:
        return "same", f"{len(first.ops)} operations, {quick:.3f} s instead of {slow:.3f} s"
    at = next((i for i, (a, b) in enumerate(zip(mine, other, strict=False)) if a != b), -1)
    return "DIFFERENT", f"{str(mine[at])[:300]} instead of {str(other[at])[:300]}"


def main() -> int:
    """Compare all models of some sets."""
    from zoo import SETS, build, names_of

    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("models", nargs="+", help="names, or sets: " + ", ".join(SETS))
    parser.add_argument("--training", action="store_true", help="in training mode")
    options = parser.parse_args()
    warnings.filterwarnings("ignore")
    logging.disable(logging.ERROR)
    counts: Counter[str] = Counter()
    for name in names_of(options.models):
        torch.manual_seed(0)
        try:
            model, inputs = build(name)
            model.train(options.training)
            given = find_inputs(model) if inputs is None else as_inputs(inputs)
            assert given is not None
            inputs = without_cache(model, given)
            word, more = compared(model, inputs)
        except Exception as error:
            word, more = "not captured", first_line(error)
        counts[word] += 1
        print(f"{name}: {word}: {more}", flush=True)
    print(", ".join(f"{number} {word}" for word, number in counts.items()))
    return int(counts["DIFFERENT"] > 0)


if __name__ == "__main__":
    raise SystemExit(main())

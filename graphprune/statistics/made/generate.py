"""generate: token inputs that a language model writes itself.

What a model predicts to come next, drawn as often as it predicts it, is much nearer to what it was
trained on than random tokens are (data-free: Liu et al., LLM-QAT, 2023). One run foretells the
token behind every position, so that all are drawn at once, in several rounds. With the same noise
in each (the Gumbel-max trick), k rounds settle at least the first k tokens into what drawing them
one by one would have written, and the others nearly (Jacobi iteration: Santilli et al.,
Accelerating Transformer Inference for Translation via Parallel Decoding, 2023).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace

import torch

from graphprune.core.graph import Value
from graphprune.core.groups import Dependencies
from graphprune.engine.run import Attrs, Chunk, resized, sampled
from graphprune.rules.facts import copies, looked_up
from graphprune.statistics.samples import Samples, results


@dataclass(frozen=True, eq=False)
class Writer:
    """What a model reads and foretells.

    Attributes:
        at: Which of the graph's inputs holds the tokens, `samples x tokens`.
        logits: What it foretells, `samples x tokens x vocabulary`.
    """

    at: int
    logits: Value


def table_rows(deps: Dependencies, value: Value) -> int | None:
    """How many rows the table holds that an input's numbers are looked up in, if they are."""
    names, sizes = {value}, []
    for op in deps.source.ops:
        if not names.intersection(op.inputs):
            continue
        found = looked_up(op)
        if copies(op):
            names.update(op.outputs)
        elif found is not None and found[1] in names and found[0].is_weight:
            sizes.append(found[0].shape[0])
    return min(sizes, default=None)


def find_writer(deps: Dependencies) -> Writer | None:
    """What a model reads and foretells, if it gives every token of its vocabulary a number."""
    found = [
        Writer(at, out)
        for at, value in enumerate(deps.source.inputs)
        if len(value.shape) == 2 and (rows := table_rows(deps, value))
        for out in deps.source.outputs
        if out.shape == (*value.shape, rows) and not out.is_weight
    ]
    alone = found and all(one.at == found[0].at for one in found) and sampled(deps)[found[0].at]
    return found[0] if alone and found[0].logits.shape[1] > 1 else None


def generate(
    deps: Dependencies,
    writer: Writer,
    samples: Samples,
    rounds: int,
    seed: int,
    advance: Callable[[float], None] = lambda _: None,
) -> Samples | None:
    """Let a model write.

    Args:
        deps: The analysis.
        writer: What the model reads and foretells.
        samples: Inputs with random tokens, the first of which stay.
        rounds: How often all other tokens are drawn.
        seed: The same tokens for the same seed.
        advance: Called with the share of the work that is done.

    Returns:
        The inputs with the tokens it has written; None where what it foretells depends on the
        tokens behind.
    """
    attrs = resized(deps, {}, samples.size)
    if not _causal(deps, writer, samples.chunks[0], attrs):
        return None
    generator = torch.Generator().manual_seed(seed)
    written: list[Chunk] = []
    for number, chunk in enumerate(samples.chunks):
        noise: torch.Tensor | None = None
        for done in range(rounds):
            logits = results(deps, chunk, attrs)[writer.logits][:, :-1]
            if noise is None:  # of Gumbel's distribution
                noise = torch.empty(logits.shape).exponential_(generator=generator).log_().neg_()
                noise = noise.to(logits)
            tokens = chunk[writer.at]
            drawn = torch.cat([tokens[:, :1], (logits + noise).argmax(-1).to(tokens)], 1)
            chunk = _with(chunk, writer.at, drawn)
            advance((number + (done + 1) / rounds) / len(samples.chunks))
            if torch.equal(drawn, tokens):
                break
        written.append(chunk)
    source = f"{samples.number} inputs that the model wrote itself"
    return replace(samples, chunks=written, source=source, worth=1.0)


def _causal(deps: Dependencies, writer: Writer, chunk: Chunk, attrs: Attrs) -> bool:
    """Whether what is foretold before the last token is the same whatever that is."""
    tokens = chunk[writer.at]
    other = tokens.clone()
    other[:, -1] = (other[:, -1] + 1) % writer.logits.shape[-1]
    first, second = (
        results(deps, _with(chunk, writer.at, x), attrs)[writer.logits] for x in (tokens, other)
    )
    same = torch.allclose(first[:, :-1], second[:, :-1], rtol=1e-3, atol=1e-3)
    return same and not torch.equal(first[:, -1], second[:, -1])


def _with(chunk: Chunk, at: int, tensor: torch.Tensor) -> Chunk:
    return (*chunk[:at], tensor, *chunk[at + 1 :])

"""generate: token inputs that a causal language model writes itself.

Text sampled from a model's own predictions is much nearer to its training data than random tokens
are (Liu et al., LLM-QAT, 2023). Sampling token by token takes a run for each token. Here all
positions are sampled at once, in a few rounds, with the same Gumbel noise in every round:

    token[t + 1] = argmax over words of (logits[t] + noise[t])

After k rounds at least the first k tokens are those that sampling one by one would give; the others
are close to that (Jacobi decoding: Santilli et al., Accelerating Transformer Inference for
Translation via Parallel Decoding, ACL 2023).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace

import torch

from graphprune.core.graph import Value
from graphprune.core.groups import Dependencies
from graphprune.engine.run import Attrs, Chunk, resized, sampled
from graphprune.rules.facts import copies, looked_up
from graphprune.statistics.constants import SAME_LOGITS
from graphprune.statistics.samples import Samples, results


@dataclass(frozen=True, eq=False)
class Writer:
    """The tokens that a language model reads, and the logits that it predicts.

    Attributes:
        at: Number of the graph's input that holds the tokens, `samples x tokens`.
        logits: The output, `samples x tokens x vocabulary`.
    """

    at: int
    logits: Value


def table_rows(deps: Dependencies, value: Value) -> int | None:
    """Rows of the embedding that an input's integers index: the smallest; None where there is none.

    Args:
        deps: The analysis.
        value: An input of the graph.
    """
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
    """The tokens and logits of a language model.

    Returns:
        None where no output has one number for each input token and each row of its embedding, or
        where several inputs could be the tokens.
    """
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
    """Let a causal language model write its inputs.

    Args:
        deps: The analysis.
        writer: Its tokens and logits.
        samples: Inputs with random tokens. The first token of each stays; the others are replaced.
        rounds: Number of rounds in which all tokens are sampled anew.
        seed: The same seed gives the same text.
        advance: Called with the share of the work that is done.

    Returns:
        The inputs with the text; None where the model is not causal.
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
            if noise is None:  # Gumbel noise: -log of an exponential variable
                noise = torch.empty(logits.shape).exponential_(generator=generator).log_().neg_()
                noise = noise.to(logits)
            tokens = chunk[writer.at]
            drawn = torch.cat([tokens[:, :1], (logits + noise).argmax(-1).to(tokens)], 1)
            chunk = _with(chunk, writer.at, drawn)
            advance((number + (done + 1) / rounds) / len(samples.chunks))
            if torch.equal(drawn, tokens):
                break
        written.append(chunk)
    origin = f"{samples.number} inputs that the model wrote itself"
    return replace(samples, chunks=written, origin=origin, worth=1.0)


def _causal(deps: Dependencies, writer: Writer, chunk: Chunk, attrs: Attrs) -> bool:
    """Whether changing the last token changes the logits of the last position alone."""
    tokens = chunk[writer.at]
    other = tokens.clone()
    other[:, -1] = (other[:, -1] + 1) % writer.logits.shape[-1]
    first, second = (
        results(deps, _with(chunk, writer.at, x), attrs)[writer.logits] for x in (tokens, other)
    )
    same = torch.allclose(first[:, :-1], second[:, :-1], rtol=SAME_LOGITS, atol=SAME_LOGITS)
    return same and not torch.equal(first[:, -1], second[:, -1])


def _with(chunk: Chunk, at: int, tensor: torch.Tensor) -> Chunk:
    """A chunk with another tensor for one of the graph's inputs."""
    return (*chunk[:at], tensor, *chunk[at + 1 :])

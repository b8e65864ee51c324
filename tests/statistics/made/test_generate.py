"""Token inputs that a language model writes itself."""

import torch
from torch import nn

import graphprune
from graphprune.core.groups import Dependencies
from graphprune.statistics.made.generate import find_writer, generate, table_rows
from graphprune.statistics.made.sample import sample
from graphprune.statistics.samples import Samples
from tests.frontends.onnx.exports import export

VOCABULARY, LENGTH = 12, 8


class Counter(nn.Module):
    """Foretells the number that follows each token, and reads the tokens before it if told to."""

    def __init__(self, looks_ahead: bool = False) -> None:
        super().__init__()
        self.looks_ahead = looks_ahead
        self.table = nn.Embedding(VOCABULARY, VOCABULARY)
        self.head = nn.Linear(VOCABULARY, VOCABULARY)
        with torch.no_grad():
            self.table.weight.copy_(torch.eye(VOCABULARY))
            self.head.weight.copy_(100 * torch.eye(VOCABULARY).roll(1, 0))

    def forward(self, tokens: torch.Tensor) -> torch.Tensor:
        """Logits of the next token at every position."""
        states = self.table(tokens)
        if self.looks_ahead:
            states = states + states.mean(1, keepdim=True)
        return self.head(states)


def analysed(model: nn.Module) -> tuple[Dependencies, torch.Tensor]:
    tokens = torch.randint(VOCABULARY, (2, LENGTH), generator=torch.Generator().manual_seed(1))
    return graphprune.analyze(model.eval(), tokens), tokens


def samples(tokens: torch.Tensor) -> Samples:
    return Samples([(tokens,)], len(tokens), "random tokens")


def test_as_many_tokens_as_rounds_are_what_the_model_would_have_written():
    deps, tokens = analysed(Counter())
    writer = find_writer(deps)
    assert writer is not None and writer.at == 0
    wanted = (tokens[:, :1] + torch.arange(LENGTH)) % VOCABULARY
    for rounds in (1, 3, LENGTH - 1):
        found = generate(deps, writer, samples(tokens), rounds, seed=0)
        assert found is not None
        assert torch.equal(found.chunks[0][0][:, : rounds + 1], wanted[:, : rounds + 1])
    assert not torch.equal(tokens, wanted)


def test_a_model_that_sees_what_follows_does_not_write():
    deps, tokens = analysed(Counter(looks_ahead=True))
    writer = find_writer(deps)
    assert writer is not None
    assert generate(deps, writer, samples(tokens), 2, seed=0) is None
    made = sample(deps, [tokens], 32, "auto", 0)
    assert made.origin == "32 random token inputs"


def test_tokens_are_drawn_as_often_as_they_are_foretold():
    model = Counter()
    with torch.no_grad():
        model.head.weight.mul_(1e-4)
        model.head.bias.copy_(torch.arange(VOCABULARY).float().mul(0.3))
    deps, _ = analysed(model)
    made = sample(deps, [torch.zeros(2, LENGTH, dtype=torch.long)], 4096, "balanced", 0)
    assert "that the model wrote itself" in made.origin
    drawn = torch.cat([chunk[0] for chunk in made.chunks])[:, 1:]
    share = torch.bincount(drawn.flatten(), minlength=VOCABULARY) / drawn.numel()
    wanted = model.head.bias.detach().softmax(0)
    assert torch.allclose(share, wanted, atol=0.02)


def test_the_same_seed_gives_the_same_tokens():
    deps, tokens = analysed(Counter())
    first, second, other = (sample(deps, [tokens], 32, "auto", seed) for seed in (3, 3, 4))
    assert torch.equal(first.chunks[0][0], second.chunks[0][0])
    assert not torch.equal(first.chunks[0][0], other.chunks[0][0])


def test_a_tagger_is_no_writer():
    """Results for every token, but not for every token of the vocabulary."""
    model = nn.Sequential(nn.Embedding(VOCABULARY, 16), nn.Linear(16, 5))
    deps, _ = analysed(model)
    assert find_writer(deps) is None
    assert table_rows(deps, deps.source.inputs[0]) == VOCABULARY


def test_onnx_files_write_the_same():
    model = Counter()
    deps, tokens = analysed(model)
    there = graphprune.analyze(export(model, (tokens,)))
    found = [sample(one, [tokens], 32, "auto", 0).chunks[0][0] for one in (deps, there)]
    assert torch.equal(found[0][:2, :4], found[1][:2, :4])

"""What a pass records of the calls of parts."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn.utils.rnn import pack_padded_sequence, pad_packed_sequence

import graphprune


class Packed(nn.Module):
    """Sentences of several lengths, packed between one module and the next."""

    def __init__(self) -> None:
        super().__init__()
        self.embed = nn.Embedding(40, 16)
        self.body = nn.Sequential(nn.Linear(16, 64), nn.ReLU(), nn.Linear(64, 16))
        self.lstm = nn.LSTM(16, 8, batch_first=True)
        self.head = nn.Linear(8, 5)

    def forward(self, ids: Tensor, lengths: Tensor) -> Tensor:
        x = self.body(self.embed(ids))
        packed = pack_padded_sequence(x, lengths.tolist(), batch_first=True)
        return self.head(pad_packed_sequence(self.lstm(packed)[0], batch_first=True)[0])


def test_packed_sequences_between_parts() -> None:
    torch.manual_seed(0)
    model = Packed().eval()
    inputs = torch.randint(0, 40, (2, 7)), torch.tensor([7, 5])
    small = graphprune.shrink(model, 0.3, example_inputs=inputs, compensate=False)
    assert type(small) is Packed and small.body[0].out_features < 64
    assert small(*inputs).shape == model(*inputs).shape

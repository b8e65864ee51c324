"""LSTM, GRU, RNN and their cells."""

from __future__ import annotations

import torch
from torch import nn

from tests.rules.cases import Case, case, check, each, t

_KINDS = {"lstm": nn.LSTM, "gru": nn.GRU, "rnn": nn.RNN}
_FORMS = {
    "plain": {},
    "stacked": {"num_layers": 2},
    "bidirectional": {"bidirectional": True},
    "both": {"num_layers": 2, "bidirectional": True},
    "batch first": {"batch_first": True},
    "without biases": {"bias": False},
}

_LSTM, _GRU, _CELL = nn.LSTM(4, 6), nn.GRU(4, 6, 2), nn.LSTMCell(4, 6)


class _First(nn.Module):
    def forward(self, results: tuple[torch.Tensor, ...]) -> torch.Tensor:
        return results[0]


CASES = [
    *(
        case(f"{name} {form}", kind(4, 6, **options), t(3, 2, 4))
        for name, kind in _KINDS.items()
        for form, options in _FORMS.items()
    ),
    case("relu rnn", nn.RNN(4, 6, nonlinearity="relu"), t(3, 2, 4)),
    case("projected", nn.LSTM(4, 6, proj_size=5), t(3, 2, 4)),
    case("projected both", nn.LSTM(4, 6, 2, proj_size=5, bidirectional=True), t(3, 2, 4)),
    case("projected without biases", nn.LSTM(4, 6, proj_size=5, bias=False), t(3, 2, 4)),
    case("projected stacked", nn.LSTM(4, 6, 2, proj_size=5, batch_first=True), t(2, 3, 4)),
    case("unbatched", nn.LSTM(4, 6), t(3, 4)),
    case("lstm with states", lambda x, h, c: _LSTM(x, (h, c)), t(3, 2, 4), t(1, 2, 6), t(1, 2, 6)),
    case("gru with states", lambda x, h: _GRU(x, h), t(3, 2, 4), t(2, 2, 6)),
    case("lstm cell", nn.LSTMCell(4, 6), t(2, 4)),
    case("gru cell", nn.GRUCell(4, 6), t(2, 4)),
    case("rnn cell", nn.RNNCell(4, 6), t(2, 4)),
    case("relu rnn cell", nn.RNNCell(4, 6, nonlinearity="relu"), t(2, 4)),
    case("lstm cell without biases", nn.LSTMCell(4, 6, bias=False), t(2, 4)),
    case("lstm cell with states", lambda x, h, c: _CELL(x, (h, c)), t(2, 4), t(2, 6), t(2, 6)),
    case("gru cell unbatched", nn.GRUCell(4, 6), t(4)),
    case("lstm then linear", nn.Sequential(nn.LSTM(4, 6), _First(), nn.Linear(6, 5)), t(3, 2, 4)),
]


@each(CASES)
def test_rule(case: Case) -> None:
    check(case)

"""A recorded capture is what torch.export gives, or there is none."""

from __future__ import annotations

import copy
import logging
from collections.abc import Callable
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.utils import parametrizations
from torch.utils import checkpoint

import graphprune
from graphprune.engine.state import preserved, quiet
from graphprune.frontends.torch.calls import exported, recorded
from graphprune.frontends.torch.forms import META, form
from graphprune.frontends.torch.lift import _program, lift
from graphprune.frontends.torch.traceable import NotFollowedError
from tests.frontends.torch.recording import recorded_here
from tools.same_captures import described

pytestmark = recorded_here
_GLOBAL = torch.arange(8.0)


class Block(nn.Module):
    """Code around a few layers."""

    def __init__(self, code: Callable[[Block, Tensor], Any], **layers: nn.Module) -> None:
        super().__init__()
        self.code = code
        self.a = nn.Linear(8, 8)
        self.register_buffer("table", torch.arange(8.0))
        self.register_buffer("other", torch.ones(8), persistent=False)
        self.plain = torch.ones(8)
        for name, layer in layers.items():
            setattr(self, name, layer)

    def forward(self, x: Tensor) -> Any:
        """What the code returns."""
        return self.code(self, x)


def in_place(m: Any, x: Tensor) -> Any:
    y = m.a(x)
    y.add_(1).mul_(2)
    y[:, 1:].relu_()
    y[:, 0] = 0
    y[:, 1, 2:4] = y[:, 2, 2:4]
    y[0, 0, 0], y[1], y[..., 2] = 1.0, torch.tensor(3.0), torch.tensor(2)
    y[:, 3] = m.table[0]
    y[x > 0] = 0
    return y


def views_of_views(m: Any, x: Tensor) -> Any:
    y = m.a(x)
    v = y.view(-1, 4, 2).transpose(1, 2).reshape(x.shape[0], -1)
    v[:, 0:2].zero_()
    return v, y.unbind(1)[0]


def splits(m: Any, x: Tensor) -> Any:
    a, b = m.a(x).chunk(2, -1)
    _, d, e = torch.split(m.a(x), [2, 3, 3], -1)
    return a * b, torch.cat([d, e], -1), torch.tensor_split(x, 3, 1)[1], x.split(2, dim=1)[0]


def batch_numbers(m: Any, x: Tensor) -> Any:
    n = len(x)
    y = m.a(x).reshape(n * x.shape[1], -1) / n
    return y.view(n, x.size(1), -1) * x.numel() ** -0.5, x.new_full((n,), n)


def stored(m: Any, x: Tensor) -> Any:
    m.table.add_(1)
    return m.a(x) * m.table + m.other + m.plain + _GLOBAL + torch.tensor([1.0] * 8)


def makers(m: Any, x: Tensor) -> Any:
    t = torch.arange(x.shape[1], device=x.device, dtype=x.dtype)
    u = torch.zeros(8) + torch.rand(8) * torch.empty(8).normal_()
    y = m.a(x) + torch.randn_like(x) + t[None, :, None] + u.to(x) + torch.eye(8)[0]
    return y.cpu().to(torch.float64).type_as(x), x.is_cuda, str(x.device)


def attention(m: Any, x: Tensor) -> Any:
    q = m.a(x).view(x.shape[0], -1, 2, 4).transpose(1, 2)
    found = [F.scaled_dot_product_attention(q, q, q, mask) for mask in (None, m.bias)]
    mask = torch.ones(6, 6, dtype=torch.bool).tril()
    found += [F.scaled_dot_product_attention(q, q, q, mask, dropout_p=p) for p in (0.0, 0.1)]
    return [y.transpose(1, 2).contiguous() for y in found]


def multi_head(m: Any, x: Tensor) -> Any:
    return m.heads(x, x, x, need_weights=True)


def recurrent(m: Any, x: Tensor) -> Any:
    y, (h, _) = m.lstm(x)
    return y.contiguous(), h, m.gru(x)[0].transpose(0, 1).contiguous()


def dropped(m: Any, x: Tensor) -> Any:
    return m.norm(F.dropout(m.a(m.a(x)), 0.3, m.training).transpose(1, 2))


def parametrized(m: Any, x: Tensor) -> Any:
    return m.weighted(x) + m.spectral(x) + F.linear(x, m.a.weight.data * m.a.weight.norm())


def recomputed(m: Any, x: Tensor) -> Any:
    y = checkpoint.checkpoint(m.a, x, use_reentrant=False)
    return y + checkpoint.checkpoint(m.a, x, use_reentrant=True)


def without_gradients(m: Any, x: Tensor) -> Any:
    with torch.no_grad():
        y = m.a(x)
    with torch.autocast("cpu", enabled=False):
        z = m.a(x)
    return y + z + m.a(x)


def functions(m: Any, x: Tensor) -> Any:
    y = F.interpolate(m.conv(x.transpose(1, 2)), scale_factor=2)
    z = torch.einsum("bnd,ed->bne", x, m.a.weight), F.pad(x, (1, 1)), x.unfold(1, 2, 1)
    w = F.glu(m.a(x)), F.normalize(x, dim=-1), torch.roll(x, 1, 1), x.masked_fill(x > 0, -1e9)
    return {"y": y, "z": [*z, None], "n": 3, "w": w, "f": torch.fft.rfft(x).abs()}


def rows(m: Any, x: Tensor) -> Any:
    out = x.new_zeros(x.shape)
    for i in range(x.shape[1]):
        out[:, i] = m.a(x[:, i])
    return torch.stack([m.a(row) for row in x]) + out + m.words(x.argmax(-1)), copy.copy(x)


FOLLOWED: dict[str, Callable[[], Block]] = {
    "in_place": lambda: Block(in_place),
    "views_of_views": lambda: Block(views_of_views),
    "splits": lambda: Block(splits),
    "batch_numbers": lambda: Block(batch_numbers),
    "stored": lambda: Block(stored),
    "makers": lambda: Block(makers),
    "attention": lambda: _with_bias(Block(attention)),
    "multi_head": lambda: Block(multi_head, heads=nn.MultiheadAttention(8, 2)),
    "recurrent": lambda: Block(
        recurrent, lstm=nn.LSTM(8, 8, 2, batch_first=True), gru=nn.GRU(8, 8)
    ),
    "dropped": lambda: Block(dropped, norm=nn.BatchNorm1d(8)),
    "parametrized": lambda: Block(
        parametrized,
        weighted=parametrizations.weight_norm(nn.Linear(8, 8)),
        spectral=parametrizations.spectral_norm(nn.Linear(8, 8)),
    ),
    "recomputed": lambda: Block(recomputed),
    "without_gradients": lambda: Block(without_gradients),
    "functions": lambda: Block(functions, conv=nn.Conv1d(8, 8, 3)),
    "rows": lambda: Block(rows, words=nn.Embedding(8, 8)),
}


def _with_bias(block: Block) -> Block:
    block.bias = nn.Parameter(torch.zeros(6, 6))
    return block


def both(model: nn.Module, *args: Any, **kwargs: Any) -> tuple[list[Any], list[Any]]:
    """What a module's graph says, recorded and exported."""
    found = []
    for capture in (recorded, exported):
        with preserved(model), quiet():
            found.append(described(_program(model, (args, kwargs), capture).graph))
    return found[0], found[1]


@pytest.mark.parametrize("training", [False, True])
@pytest.mark.parametrize("name", FOLLOWED)
def test_what_is_recorded_is_what_is_exported(name: str, training: bool) -> None:
    model = FOLLOWED[name]().train(training)
    mine, other = both(model, torch.randn(2, 6, 8))
    assert mine == other


class Named(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.x, self.y = nn.Linear(8, 8), nn.Linear(8, 8)
        self.y.weight = self.x.weight

    def forward(self, mul: Tensor, add: Any = None, *, linear: Any = None) -> Tensor:
        """Inputs that are called as operations are."""
        return self.y(self.x(mul) * linear).add(add["k"][0])


def test_inputs_have_the_names_that_export_gives_them() -> None:
    x = torch.randn(2, 8)
    mine, other = both(Named(), x, {"k": [x + 1, x]}, linear=x + 3)
    assert mine == other
    graphs = [
        _program(Named(), ((x, {"k": [x + 1]}), {"linear": x + 3}), capture).graph
        for capture in (recorded, exported)
    ]
    names = [[v.name for op in graph.ops for v in op.outputs] for graph in graphs]
    assert names[0] == names[1] == ["linear_1", "mul_1", "linear_2", "add"]


def by_values(m: Any, x: Tensor) -> Any:
    try:
        return m.a(x) if x.sum().item() > 0 else x
    except RuntimeError:
        return x


def by_errors(m: Any, x: Tensor) -> Any:
    try:
        return m.a(x) + x.new_tensor(float(x[0, 0, 0]))
    except Exception:
        return x


def masked(m: Any, x: Tensor) -> Any:
    return m.a(x)[x > 0]


def precise(m: Any, x: Tensor) -> Any:
    with torch.autocast("cpu", dtype=torch.bfloat16):
        y = m.a(x)
    return y.float()


def differentiated(m: Any, x: Tensor) -> Any:
    return torch.func.jvp(m.a, (x,), (x,))[1]


def asks_for_gradients(m: Any, x: Tensor) -> Any:
    y = m.a(x)
    return y * 2 if y.requires_grad else y


def keeps(m: Any, x: Tensor) -> Any:
    m.held = m.a(x)
    return m.held * 2


def keeps_a_buffer(m: Any, x: Tensor) -> Any:
    m.table = m.table + 1
    return m.a(x) * m.table


REFUSED = (
    *(by_values, by_errors, masked, precise, differentiated, asks_for_gradients),
    *(keeps, keeps_a_buffer),
)


@pytest.mark.parametrize("code", REFUSED)
def test_what_cannot_be_followed_is_refused(code: Any) -> None:
    model = Block(code).eval()
    before = dict(model.named_buffers())
    weights = {name: id(held) for name, held in model.named_parameters()}
    call = nn.Module.__call__
    with preserved(model), pytest.raises(NotFollowedError):
        recorded(model, ((torch.randn(2, 6, 8),), {}))
    assert {name: id(held) for name, held in model.named_parameters()} == weights
    assert all(held is before[name] for name, held in model.named_buffers())
    assert nn.Module.__call__ is call
    assert torch.is_grad_enabled()
    assert not torch.is_autocast_enabled("cpu")
    assert not torch.compiler.is_exporting()


@pytest.mark.parametrize(
    "model",
    [
        torch.fx.symbolic_trace(nn.Linear(8, 8)),
        nn.Sequential(*[nn.Linear(8, 8)] * 2),
        nn.Linear(8, 8, device="meta"),
    ],
)
def test_models_that_are_exported_at_once(model: nn.Module) -> None:
    with pytest.raises(NotFollowedError):
        recorded(model, ((torch.randn(2, 8),), {}))


def test_a_refusal_is_told_to_whoever_debugs(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.DEBUG, "graphprune"):
        assert lift(Block(precise), ((torch.randn(2, 6, 8),), {})).graph.ops
    assert "Block is exported: it runs in another precision" in caplog.text


A = torch.ops.aten
X, C, B = torch.randn(2, 8, 4, 4), torch.rand(8), torch.randn(2, 8, 1, 1)
FORMS = [
    *((func, (X,)) for func in (A.relu.default, A.gelu.default, A.hardswish_.default)),
    *((func, (X,)) for func in (A.hardsigmoid.default, A.leaky_relu_.default, A.mish.default)),
    *((A.add.Tensor, (X, y)) for y in (X, B, C[:4], 2, 1.5)),
    (A.mul.Tensor, (B, X)),
    *((A.add_.Tensor, (X, y)) for y in (X, B, C[:4], 2, 1.5)),
    *((A.adaptive_avg_pool2d.default, (X, sizes)) for sizes in ([1, 1], [2, 3])),
    (A.adaptive_avg_pool3d.default, (X[None], [1, 2, 1])),
    (A.mul.Tensor, (C[:4], X)),
    *((A.linear.default, (X, torch.randn(3, 4), b)) for b in (None, C[:3])),
    (A.batch_norm.default, (X, C, C, C, C, False, 0.1, 1e-5, False)),
    (A.layer_norm.default, (X, [4, 4], X[0, 0], X[0, 0])),
    (A.group_norm.default, (X, 4, C, C)),
    (A.conv2d.default, (X, torch.randn(6, 8, 3, 3))),
    (A.conv2d.default, (X, torch.randn(6, 4, 3, 1), C[:6], [2, 1], [1, 0], [1, 2], 2)),
    (A.conv2d.default, (X, torch.randn(8, 1, 3, 3), None, [2], [1], [1], 8)),
    (A.conv1d.default, (X[0], torch.randn(6, 4, 2), C[:6], [3])),
    (A.conv3d.default, (X[None], torch.randn(6, 2, 1, 2, 2), C[:6], [1, 2, 1], [1])),
]


@pytest.mark.parametrize(("func", "args"), FORMS)
def test_forms_are_those_of_the_kernels(func: Any, args: Any) -> None:
    blank = [x.to(META) if isinstance(x, Tensor) else x for x in args]
    made, wanted = form(func, blank, {}), func(*(x.clone() if x is X else x for x in args))
    assert made is not None
    assert (made.shape, made.stride(), made.dtype) == (wanted.shape, wanted.stride(), wanted.dtype)
    assert made.is_meta


@pytest.mark.parametrize(
    ("func", "args"),
    [
        (A.relu.default, (X.int(),)),
        (A.relu.default, (X.transpose(1, 2),)),
        (A.add.Tensor, (X, X.double())),
        (A.add.Tensor, (X[:, :1], X[..., :1])),
        (A.add.Tensor, (X, torch.randn(3, 4, 4))),
        (A.linear.default, (X, torch.randn(3, 5))),
        (A.add_.Tensor, (X[:1], X)),
        (A.adaptive_avg_pool2d.default, (X[0], [1, 1])),
        (A.batch_norm.default, (X, C[:4], C, C, C, False, 0.1, 1e-5, False)),
        (A.batch_norm.default, (X, C, C, C, C, True, 0.1, 1e-5, False)),
        (A.layer_norm.default, (X, [5])),
        (A.group_norm.default, (X, 3, C, C)),
        (A.conv2d.default, (X, torch.randn(6, 4, 3, 3))),
        (A.conv2d.default, (X, torch.randn(6, 8, 5, 5))),
        (A.conv2d.default, (X[0], torch.randn(6, 8, 3, 3))),
        (A.conv2d.default, (X, torch.randn(6, 3, 3, 8).permute(0, 3, 1, 2))),
    ],
)
def test_kernels_are_asked_where_operands_do_not_fit(func: Any, args: Any) -> None:
    blank = [x.to(META) if isinstance(x, Tensor) else x for x in args]
    assert form(func, blank, {}) is None


class _Padded(nn.Module):
    """Padding that follows from strides kept in tensors (EnCodec: Défossez et al. 2022)."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.last = nn.Conv1d(2, 24, 4, 2), nn.Conv1d(24, 3, 1)
        self.register_buffer("stride", torch.tensor(2))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        frames = torch.ceil(x.shape[-1] / self.stride).to(torch.int64)
        extra = frames * self.stride - x.shape[-1]
        if x.shape[-1] <= extra + self.stride:
            raise ValueError("too short")
        x = nn.functional.pad(x, (self.stride, extra), mode="reflect")
        return self.last(self.first(x).relu())


def test_padding_by_numbers_that_tensors_hold_is_captured_whole() -> None:
    net = _Padded().eval()
    plan = graphprune.plan(net, 0.5, example_inputs=torch.randn(2, 2, 21), compensate=False)
    small = plan.apply()
    assert plan.report is not None and not plan.report.warnings and type(small) is _Padded
    assert small.first.out_channels == 12
    assert small(torch.randn(3, 2, 30)).shape == net(torch.randn(3, 2, 30)).shape

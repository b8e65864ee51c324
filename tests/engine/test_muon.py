"""The optimizer: equal steps in all directions, whatever the scale."""

from __future__ import annotations

import pytest
import torch

from graphprune.engine.muon import Muon, is_matrix, orthogonal, work_of


@pytest.mark.parametrize("shape", [(8, 8), (6, 20), (20, 6)])
def test_orthogonal_matrices_keep_directions_and_lose_sizes(shape: tuple[int, int]) -> None:
    torch.manual_seed(0)
    u, _, v = torch.linalg.svd(torch.randn(shape), full_matrices=False)
    sizes = torch.linspace(1.0, 0.1, min(shape))
    found = u.T @ orthogonal(7e3 * (u * sizes) @ v) @ v.T
    assert torch.allclose(found, torch.diag(found.diagonal()), atol=1e-4)
    assert 0.6 < float(found.diagonal().min()) <= float(found.diagonal().max()) < 1.3


def test_a_gradient_of_zero_moves_nothing() -> None:
    weight = torch.randn(4, 6, requires_grad=True)
    before = weight.detach().clone()
    weight.grad = torch.zeros_like(weight)
    Muon([weight], [], 0.1).step()
    assert torch.equal(weight.detach(), before)


def test_a_step_changes_a_weight_by_the_rate_whatever_its_scale() -> None:
    torch.manual_seed(0)
    start, grad = torch.randn(16, 4, 3, 3), torch.randn(16, 4, 3, 3)
    moved = []
    for size in (1e-4, 1.0, 1e4):
        weight = (size * start).requires_grad_()
        weight.grad = grad / size
        Muon([weight], [], 0.01).step()
        moved.append((weight.detach() - size * start) / size)
        assert float(moved[-1].norm() / start.norm()) == pytest.approx(0.01, rel=0.2)
    assert all(torch.allclose(x, moved[1], atol=1e-5) for x in moved)


def test_vectors_and_tables_take_the_steps_of_adam() -> None:
    torch.manual_seed(0)
    table, bias = torch.randn(5, 3), torch.randn(4)
    ours, theirs = ([x.clone().requires_grad_() for x in (table, bias)] for _ in range(2))
    muon, adam = Muon([ours[1]], [ours[0]], 0.01), torch.optim.Adam(theirs, 0.001)
    for _ in range(3):
        for pair in zip(ours, theirs, strict=True):
            grad = torch.randn_like(pair[0])
            for tensor in pair:
                tensor.grad = grad
        muon.step()
        adam.step()
    assert all(torch.allclose(a, b, atol=1e-6) for a, b in zip(ours, theirs, strict=True))


def test_a_badly_scaled_problem_takes_fewer_steps_than_with_adam() -> None:
    torch.manual_seed(0)
    x = torch.randn(256, 32) @ torch.diag(torch.logspace(0, -1.5, 32)) @ torch.randn(32, 32)
    wanted = x @ torch.randn(32, 8)

    def loss(kind: str) -> float:
        weight = torch.randn(32, 8, generator=torch.Generator().manual_seed(1)).requires_grad_()
        optimizer = Muon([weight], [], 0.05) if kind == "muon" else torch.optim.Adam([weight], 0.05)
        for step in range(100):
            for group in optimizer.param_groups:
                group["lr"] = 0.05 * (1 - step / 100)
            optimizer.zero_grad()
            off = (x @ weight - wanted).square().mean() / wanted.var()
            torch.autograd.backward(off)
            optimizer.step()
        return float(off.detach())

    assert loss("muon") < loss("adam") / 2


def test_it_is_an_optimizer_of_pytorch() -> None:
    torch.manual_seed(0)
    model = torch.nn.Linear(3, 4)
    optimizer = Muon([model.weight], [model.bias], 0.02)
    torch.autograd.backward(model(torch.randn(2, 3)).square().sum())

    def closure() -> float:
        return 3.0

    assert optimizer.step(closure) == 3.0
    again = Muon([model.weight], [model.bias], 0.5)
    again.load_state_dict(optimizer.state_dict())
    assert again.param_groups[0]["lr"] == 0.02
    assert torch.equal(again.state[model.weight]["momentum"], model.weight.grad)


def test_work_is_that_of_products() -> None:
    assert work_of(torch.zeros(5)) == 0 and not is_matrix(torch.zeros(1, 7, 3))
    assert work_of(torch.zeros(4, 2, 3)) == 5 * (2 * 16 * 6 + 64) == work_of(torch.zeros(6, 4))

"""Functions of whole matrices: these stay, and what counts them passes."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, linalg, nn
from torch.nn.utils import parametrizations, parametrize

import graphprune
from tests.rules.cases import Case, case, check, each, t

_X = t(3, 4, 4)
_DEFINITE = _X @ _X.mT + torch.eye(4)

# What is called by its own name alone, with a positive definite matrix.
_NAMED = (
    "_linalg_det", "_linalg_eigh", "_linalg_slogdet", "_linalg_svd", "det", "linalg_cholesky",
    "linalg_eig", "linalg_eigvals", "linalg_eigvalsh", "linalg_lu", "linalg_lu_factor_ex",
    "linalg_matrix_exp", "linalg_svd", "logdet", "slogdet", "svd",
)  # fmt: skip
_OLD = ("cholesky",)  # newer PyTorch has no such operation: `linalg_cholesky` is what remains


def _first(found: Any) -> Tensor:
    """The first result, as real numbers."""
    held: Tensor = found if isinstance(found, Tensor) else found[0]
    return held.abs() if held.is_complex() else held


def _named(name: str) -> Case:
    function = getattr(torch.ops.aten, name)
    return case(name, lambda x: _first(function(x)), _DEFINITE)


CASES = [
    case("inverse and information", lambda x: linalg.inv_ex(x)[0], _X),
    case("pinv", linalg.pinv, t(3, 4, 5), missed=True),  # it passes zeros on
    case("exponential", torch.matrix_exp, _X),
    case("determinant", linalg.det, _X),
    case("logarithm of the determinant", lambda x: linalg.slogdet(x)[1], _X),
    case("power", lambda x: linalg.matrix_power(x, 2), _X),
    case("cholesky and information", lambda x: linalg.cholesky_ex(x)[0], _X @ _X.mT),
    case("qr", lambda x: linalg.qr(x)[1], t(3, 5, 4)),
    case("singular values", linalg.svdvals, t(3, 5, 4)),
    case("eigh", lambda x: linalg.eigh(x)[0], _X @ _X.mT),
    case("solve", lambda x, y: linalg.solve_ex(x, y)[0], _X, t(3, 4, 2)),
    case("for a vector", lambda x: linalg.solve_ex(x, torch.ones(4))[0], t(4, 4)),
    case("triangular", lambda x, y: linalg.solve_triangular(x, y, upper=True), _X, t(3, 4, 2)),
    case("pinverse", torch.pinverse, t(3, 4, 5), missed=True),
    case("solve, told", lambda x, y: torch.ops.aten._linalg_solve_ex(x, y)[0], _X, t(3, 4, 2)),
    case("triangular, told", lambda x, y: torch.triangular_solve(y, x)[0], _X, t(3, 4, 2)),
    case("reflections", lambda x, y: linalg.householder_product(x, y), t(3, 5, 4), t(3, 4)),
    case(
        "reflections of another",
        lambda *given: torch.ormqr(*given),
        t(3, 5, 4),
        t(3, 4),
        t(3, 5, 2),
    ),
    case("what reflects", lambda x: torch.geqrf(x)[1], t(3, 5, 4)),
    case("reflections by their old name", torch.orgqr, t(3, 5, 4), t(3, 4)),
    case("behind a factor", lambda x, y: torch.cholesky_solve(y, x), _DEFINITE, t(3, 4, 2)),
    *map(_named, _NAMED),
    *map(_named, (name for name in _OLD if hasattr(torch.ops.aten, name))),
]


@each(CASES)
def test_rule(case: Case) -> None:
    check(case)


def test_orthogonal_weights_stay_for_a_reason() -> None:
    """A matrix exponential was an unknown operation, which locked all that it touched."""
    layer = parametrizations.orthogonal(nn.Linear(24, 24))
    model = nn.Sequential(nn.Linear(8, 24), nn.ReLU(), layer, nn.ReLU(), nn.Linear(24, 4))
    deps = graphprune.analyze(model.eval(), torch.randn(2, 8))
    assert any("a function of whole matrices" in lock.reason for lock in deps.locks)
    assert not any("unknown" in lock.reason for lock in deps.locks)


class Symmetric(nn.Module):
    """A weight that its upper triangle tells."""

    def forward(self, x: Tensor) -> Tensor:
        return x.triu() + x.triu(1).mT


def test_triangles_of_weights_go_by_rows_and_columns_alike() -> None:
    torch.manual_seed(0)
    layer = nn.Linear(24, 24)
    parametrize.register_parametrization(layer, "weight", Symmetric())
    model = nn.Sequential(nn.Linear(8, 24), nn.ReLU(), layer, nn.ReLU(), nn.Linear(24, 4)).eval()
    small = graphprune.shrink(model, 0.4, example_inputs=torch.randn(2, 8), compensate=False)
    weight = small[2].weight
    assert len(weight) < 20 and torch.equal(weight, weight.T)

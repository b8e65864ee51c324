"""Functions of whole matrices: inverses, factors, exponentials."""

from __future__ import annotations

from graphprune.core.effect import Dims
from graphprune.rules.registry import axis_rule
from graphprune.rules.site import Site

_FACTORS = """
    linalg_cholesky linalg_cholesky_ex cholesky linalg_qr linalg_svd _linalg_svd
    linalg_svdvals svd linalg_eigh _linalg_eigh linalg_eigvalsh linalg_eig linalg_eigvals linalg_lu
    linalg_lu_factor linalg_lu_factor_ex geqrf linalg_ldl_factor linalg_ldl_factor_ex
"""
_INVERSES = """
    inverse linalg_inv linalg_inv_ex linalg_pinv pinverse cholesky_inverse linalg_solve
    linalg_solve_ex _linalg_solve_ex linalg_solve_triangular triangular_solve cholesky_solve
"""
_NUMBERS = """
    matrix_exp linalg_matrix_exp linalg_matrix_power det linalg_det _linalg_det slogdet logdet
    linalg_slogdet _linalg_slogdet
"""
# Their second operand is vectors: a factor for each reflection, the order of rows.
_WITH_VECTORS = """
    linalg_householder_product orgqr ormqr linalg_lu_solve lu_unpack linalg_ldl_solve
"""


@axis_rule(*(f"aten.{name}" for name in (_FACTORS + _INVERSES + _NUMBERS).split()))
def of_matrices(op: Site) -> list[Dims]:
    """Every number of a result depends on all numbers of a matrix; several of them run in step."""
    return _whole(op, [2] * len(op.operands()))


@axis_rule(*(f"aten.{name}" for name in _WITH_VECTORS.split()))
def of_factors(op: Site) -> list[Dims]:
    """The same for factors of a matrix, of which one is vectors."""
    return _whole(op, [1 if place == 1 else 2 for place in range(len(op.operands()))])


def _whole(op: Site, own: list[int]) -> list[Dims]:
    """Lock the last dimensions of each operand, as many as stated: the others run in step."""
    why, dims = "a function of whole matrices", op.operands()
    pairs = list(zip(dims, own, strict=True))
    if any(len(held) < number for held, number in pairs):
        return op.opaque(why)
    batch = op.broadcast([held[: len(held) - number] for held, number in pairs])
    op.lock([dim for held, number in pairs for dim in held[len(held) - number :]], why)
    made = (op.fresh(i, why) for i in range(len(op.op.outputs)))
    return [[*batch, *new[len(batch) :]] if len(new) >= len(batch) else new for new in made]

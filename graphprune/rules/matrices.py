"""Functions of whole matrices: inverses, factors, exponentials."""

from __future__ import annotations

from graphprune.core.effect import Dims
from graphprune.rules.registry import axis_rule
from graphprune.rules.site import Site

_FACTORS = """
    linalg_cholesky linalg_cholesky_ex cholesky linalg_qr linalg_svd _linalg_svd
    linalg_svdvals svd linalg_eigh _linalg_eigh linalg_eigvalsh linalg_eig linalg_eigvals linalg_lu
    linalg_lu_factor linalg_lu_factor_ex
"""
_INVERSES = """
    inverse linalg_inv linalg_inv_ex linalg_pinv pinverse cholesky_inverse linalg_solve
    linalg_solve_ex _linalg_solve_ex linalg_solve_triangular triangular_solve cholesky_solve
"""
_NUMBERS = """
    matrix_exp linalg_matrix_exp linalg_matrix_power det linalg_det _linalg_det slogdet logdet
    linalg_slogdet _linalg_slogdet
"""


@axis_rule(*(f"aten.{name}" for name in (_FACTORS + _INVERSES + _NUMBERS).split()))
def of_matrices(op: Site) -> list[Dims]:
    """Every number of a result depends on all numbers of a matrix; several of them run in step."""
    why, dims = "a function of whole matrices", op.operands()
    if any(len(held) < 2 for held in dims):
        return op.opaque(why)
    batch = op.broadcast([held[:-2] for held in dims])
    op.lock([dim for held in dims for dim in held[-2:]], why)
    made = (op.fresh(i, why) for i in range(len(op.op.outputs)))
    return [[*batch, *new[len(batch) :]] if len(new) >= len(batch) else new for new in made]

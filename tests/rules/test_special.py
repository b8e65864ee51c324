"""Rules of operations that few models use: special functions, windows, norms in place, draws."""

from __future__ import annotations

import torch
from torch.nn import functional as F

from tests.rules.cases import Case, below, case, check, each, p, t

A, S = torch.ops.aten, torch.special
_X, _P = t(3, 6, 5), p(3, 6, 5)
_EYE = 9 * torch.eye(4)  # so that there are factors where some of a matrix is zero

_UNARY = "deg2rad rad2deg signbit isposinf isneginf conj_physical i0"
_SPECIAL = """
    i0e i1 i1e entr erfcx log_ndtr ndtri airy_ai bessel_j0 bessel_j1 bessel_y0 bessel_y1
    modified_bessel_i0 modified_bessel_i1 modified_bessel_k0 modified_bessel_k1
    scaled_modified_bessel_k0 scaled_modified_bessel_k1 spherical_bessel_j0
"""
_POLYNOMIALS = """
    hermite_polynomial_h hermite_polynomial_he laguerre_polynomial_l legendre_polynomial_p
    chebyshev_polynomial_t chebyshev_polynomial_u chebyshev_polynomial_v chebyshev_polynomial_w
    shifted_chebyshev_polynomial_t shifted_chebyshev_polynomial_u shifted_chebyshev_polynomial_v
    shifted_chebyshev_polynomial_w
"""
_WINDOWS = "blackman_window bartlett_window kaiser_window"
_PAIRS = "igamma igammac nextafter"
_DRAWN = "exponential_ log_normal_ cauchy_ normal_ uniform_"


CASES = [
    *(case(name, getattr(torch, name), _P) for name in _UNARY.split()),
    *(case(name, getattr(S, name), _P) for name in _SPECIAL.split()),
    *(
        case(name, lambda x, n=name: getattr(S, n)(x, torch.tensor(3)), _P)
        for name in _POLYNOMIALS.split()
    ),
    *(case(name, lambda x, n=name: getattr(torch, n)(5) + x, _X) for name in _WINDOWS.split()),
    *(case(name, getattr(torch, name), _P, p(6, 5)) for name in _PAIRS.split()),
    *(
        case(name, lambda x, n=name: getattr(torch.empty_like(x), n)() + x, _X)
        for name in _DRAWN.split()
    ),
    case("poisson", torch.poisson, _P),
    case("geometric", lambda x: torch.empty_like(x).geometric_(0.5) + x, _X),
    case("random", lambda x: torch.empty_like(x).random_(3) + x, _X),
    case("polygamma", lambda x: torch.polygamma(1, x), _P),
    case("mvlgamma", lambda x: torch.mvlgamma(x + 2, 2), _P),
    case("frexp", lambda x: torch.frexp(x)[0], _X),
    case("ldexp", lambda x: torch.ldexp(x, torch.tensor([2])), _X),
    case("zeta", lambda x: S.zeta(x + 2, torch.ones(1)), _P),
    case("xlog1py", S.xlog1py, _P, p(6, 5)),
    case("gcd", torch.gcd, below(9, 3, 4), below(7, 3, 4)),
    case("lcm", torch.lcm, below(9, 3, 4), below(7, 3, 4)),
    case("isin", torch.isin, below(9, 3, 4), below(7, 5)),
    case("range", lambda x: torch.range(0, 4) + x, _X),
    case("fftfreq", lambda x: torch.fft.fftfreq(5) + x, _X),
    case("rfftfreq", lambda x: torch.fft.rfftfreq(8) + x, _X),
    case("outer with a sum", torch.addr, t(3, 4), t(3), t(4)),
    case("distance", torch.dist, t(3, 4), t(3, 4)),
    case("distance from each row", torch.dist, t(3, 4), t(4)),
    case(
        "squared distance from each row",
        lambda x, y: F.mse_loss(x, y.expand(3, 4)) + F.l1_loss(x, y, reduction="sum"),
        t(3, 4),
        t(4),
    ),
    case("largest distance", lambda x, y: torch.dist(x, y, float("inf")), t(3, 4), t(3, 4)),
    case("renorm", lambda x: torch.renorm(x, 2, 1, 0.5), _X),
    case(
        "rows of at most a norm",
        lambda i, w: F.embedding(i, w + 0, max_norm=0.5),
        below(7, 3),
        t(7, 5),
    ),
    case("nanmedian", lambda x: torch.nanmedian(x, 1)[0], _X),
    case("histogram", lambda x: torch.histogram(x, 4, range=(0, 1))[0], p(3, 4)),
    case("loss with a soft margin", F.soft_margin_loss, t(3, 4), t(3, 4).sign()),
    case("loss with margins", F.multi_margin_loss, t(3, 4), below(4, 3)),
    case(
        "reduced by index",
        lambda x, y: x.index_reduce(1, torch.tensor([0, 2]), y, "prod"),
        t(3, 4),
        t(3, 2),
    ),
    case("trace", torch.trace, t(4, 4)),
    case("trace of no square", torch.trace, t(4, 5)),
    case("a quarter turn", lambda x: torch.rot90(x, 1, (0, 2)), _X),
    case("half a turn", lambda x: torch.rot90(x, 2, (1, 2)), _X),
    case("written by place", lambda x: x.put(torch.tensor([1, 3]), torch.zeros(2)), t(3, 4)),
    case("blocks", torch.block_diag, t(3, 4), t(2, 5)),
    case("a diagonal written to", lambda x, y: x.diagonal_scatter(y), t(4, 4), t(4)),
    case(
        "segments",
        lambda x: torch.segment_reduce(x, "sum", lengths=torch.tensor([2, 1])),
        t(3, 4),
        missed=True,
    ),
    case("convolution over steps", torch.conv_tbc, t(7, 2, 4), t(3, 4, 6), t(6)),
    case(
        "with symmetric factors",
        lambda x, y: torch.linalg.ldl_solve(*torch.linalg.ldl_factor_ex(x + _EYE)[:2], y),
        t(4, 4),
        t(4, 2),
    ),
    case("factors apart", lambda x: torch.lu_unpack(*torch.linalg.lu_factor_ex(x)[:2])[2], t(4, 4)),
    case(
        "with factors",
        lambda x, y: torch.linalg.lu_solve(*torch.linalg.lu_factor_ex(x)[:2], y),
        t(4, 4),
        t(4, 2),
    ),
]


@each(CASES)
def test_rule(case: Case) -> None:
    check(case)

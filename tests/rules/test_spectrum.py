"""Fourier transforms: channels pass, what is transformed stays."""

from __future__ import annotations

import torch
from torch import fft

from tests.rules.cases import Case, case, check, each, t

A = torch.ops.aten
_X = t(3, 6, 8, 5)

CASES = [
    *(
        case(name, lambda x, n=name: getattr(fft, n)(x).abs(), _X)
        for name in "fft ifft rfft ihfft fft2 ifft2 rfft2 ihfft2".split()
    ),
    *(
        case(name, lambda x, n=name: getattr(fft, n)(x, dim=(1, -1)).abs(), _X)
        for name in "fftn ifftn rfftn irfftn hfftn ihfftn".split()
    ),
    *(
        case(name, lambda x, n=name: getattr(fft, n)(x), _X)
        for name in "irfft hfft irfft2 hfft2 fftshift ifftshift".split()
    ),
    case("fft of channels", lambda x: fft.fft(x, dim=1).real, _X),
    case("back", lambda x: fft.irfft(fft.rfft(x, dim=2), 8, dim=2), _X),
    case("back of two", lambda x: fft.irfft2(fft.rfft2(x), s=(8, 5)), _X),
    case("back of channels", lambda x: fft.ifftn(fft.fftn(x, dim=(1, -1)), dim=(1, -1)).real, _X),
    case("fftn of all", lambda x: fft.fftn(x).imag, _X),
    case("fftn of the last", lambda x: fft.rfftn(x, s=(4, 4)).abs(), _X),
    case("fftshift of two", lambda x: fft.fftshift(fft.fft2(x), dim=(-2, -1)).angle(), _X),
    case("stft", lambda x: torch.stft(x, 8, return_complex=True).abs(), t(3, 40)),
    case(
        "istft",
        lambda x: torch.istft(torch.stft(x, 8, window=torch.ones(8), return_complex=True), 8),
        t(3, 40),
    ),
    case("real to complex", lambda x: A._fft_r2c(x, [1], 0, True).abs(), _X),
    case("complex to complex", lambda x: A._fft_c2c(fft.fft(x), [2], 0, True).abs(), _X),
    case("complex to real", lambda x: A._fft_c2r(fft.rfft(x, dim=2), [2], 0, 8), _X),
    case("complex", lambda x, y: torch.complex(x, y).real, t(3, 6), t(3, 6)),
    case("polar", lambda x, y: torch.polar(x, y).imag, t(3, 6), t(3, 6)),
]


@each(CASES)
def test_rule(case: Case) -> None:
    check(case)

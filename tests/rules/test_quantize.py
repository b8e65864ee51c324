"""Fake quantization, of tensors and of channels."""

from __future__ import annotations

import torch

from tests.rules.cases import Case, case, check, each, p, t

A = torch.ops.aten
_X, _W = t(3, 6, 5), t(6, 5)
_STEP, _ZERO = torch.tensor([0.1]), torch.tensor([0], dtype=torch.int32)
_STEPS, _ZEROS = p(6), torch.zeros(6, dtype=torch.int32)
_ON = torch.ones(1, dtype=torch.int64)


def _observed(name: str, call: torch._ops.OpOverloadPacket, rows: bool) -> Case:
    """The extremes of a whole tensor move by so little that they seem to depend on no channel."""
    low, high, steps, zeros = (-p(6), p(6), _STEPS, _ZEROS) if rows else (-p(1), p(1), _STEP, _ZERO)

    def function(x: torch.Tensor, *held: torch.Tensor) -> torch.Tensor:
        return call(x, _ON, _ON, *(tensor.clone() for tensor in held), 0.01, -8, 7, 0, rows)

    named = f"{name} of {'rows' if rows else 'all'}"
    return case(named, function, _W, low, high, steps, zeros, missed=not rows)


CASES = [
    case("tensor", lambda x: torch.fake_quantize_per_tensor_affine(x, 0.1, 0, -8, 7), _X),
    case(
        "tensor, computed step",
        lambda x: torch.fake_quantize_per_tensor_affine(x, _STEP, _ZERO, -8, 7),
        _X,
    ),
    case(
        "tensor and mask",
        lambda x: A.fake_quantize_per_tensor_affine_cachemask(x, 0.1, 0, -8, 7)[0],
        _X,
    ),
    case(
        "tensor and mask, computed step",
        lambda x: A._fake_quantize_per_tensor_affine_cachemask_tensor_qparams(
            x, _STEP, _ZERO, _ON, -8, 7
        )[0],
        _X,
    ),
    case(
        "tensor, learned step",
        lambda x: A._fake_quantize_learnable_per_tensor_affine(x, _STEP, _STEP * 0, -8, 7),
        _X,
    ),
    case(
        "channels",
        lambda x, s, z: torch.fake_quantize_per_channel_affine(x, s, z, 1, -8, 7),
        _X,
        _STEPS,
        _ZEROS,
    ),
    case(
        "channels and mask",
        lambda x, s, z: A.fake_quantize_per_channel_affine_cachemask(x, s, z, 1, -8, 7)[0],
        _X,
        _STEPS,
        _ZEROS,
    ),
    case(
        "channels, learned steps",
        lambda x, s: A._fake_quantize_learnable_per_channel_affine(x, s, s * 0, 1, -8, 7),
        _X,
        _STEPS,
    ),
    *(
        _observed(name, getattr(A, name), rows)
        for name in ("fused_moving_avg_obs_fake_quant", "_fused_moving_avg_obs_fq_helper")
        for rows in (False, True)
    ),
]


@each(CASES)
def test_rule(case: Case) -> None:
    check(case)

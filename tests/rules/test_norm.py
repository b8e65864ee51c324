"""Normalisation: over channels, groups, trailing dimensions, and of weights."""

from __future__ import annotations

import torch
import torch.nn.functional as F

from tests.rules.cases import Case, case, check, each, p, t

A = torch.ops.aten
_BN = (t(2, 6, 5, 3), t(6), t(6), t(6), p(6))


def _norm(x: torch.Tensor, w: torch.Tensor, b: torch.Tensor) -> torch.Tensor:
    return F.batch_norm(x, None, None, w, b, training=True)


CASES = [
    case("batch_norm", lambda x, w, b, m, v: F.batch_norm(x, m, v, w, b), *_BN),
    case("batch_norm 2d", lambda x, m, v: F.batch_norm(x, m, v), t(2, 6), t(6), p(6)),
    case("batch_norm 3d", lambda x, m, v: F.batch_norm(x, m, v), t(2, 6, 4), t(6), p(6)),
    case("batch_norm training", _norm, *_BN[:3]),
    case(
        "native batch_norm",
        lambda x, w, b, m, v: A._native_batch_norm_legit_no_training(x, w, b, m, v, 0.1, 1e-5),
        *_BN,
    ),
    case(
        "batch_norm without update",
        lambda x, w, b, m, v: A._batch_norm_no_update(x, w, b, m, v, 0.1, 1e-5),
        *_BN,
    ),
    case(
        "_native_batch_norm_legit",
        lambda x, w, b, m, v: A._native_batch_norm_legit(
            x, w, b, m.clone(), v.clone(), False, 0.1, 1e-5
        )[0],
        *_BN,
    ),
    case("_safe_softmax", lambda x: A._safe_softmax(x, 1), t(3, 6, 5)),
    case("instance_norm", lambda x, w, b: F.instance_norm(x, weight=w, bias=b), *_BN[:3]),
    case("instance_norm plain", F.instance_norm, t(2, 6, 5)),
    case(
        "instance_norm with statistics",
        lambda x, m, v: F.instance_norm(x, m, v, use_input_stats=False),
        *(t(2, 6, 5), t(6), p(6)),
    ),
    case("group_norm", lambda x, w, b: F.group_norm(x, 2, w, b), t(3, 6, 5, 4), t(6), t(6)),
    case("group_norm plain", lambda x: F.group_norm(x, 3), t(2, 6)),
    case("group_norm of one", lambda x, w: F.group_norm(x, 1, w), t(2, 6, 5), t(6)),
    case("group_norm of each", lambda x, w: F.group_norm(x, 6, w), t(2, 6, 5), t(6)),
    case(
        "native group_norm",
        lambda x, w, b: A.native_group_norm(x, w, b, 3, 6, 20, 2, 1e-5),
        *(t(3, 6, 5, 4), t(6), t(6)),
    ),
    case("layer_norm", lambda x, w, b: F.layer_norm(x, [5], w, b), t(2, 3, 5), t(5), t(5)),
    case("layer_norm 2d", lambda x, w: F.layer_norm(x, [4, 5], w), t(2, 3, 4, 5), t(4, 5)),
    case("layer_norm plain", lambda x: F.layer_norm(x, [3, 5]), t(2, 3, 5)),
    case(
        "native layer_norm",
        lambda x, w, b: A.native_layer_norm(x, [5], w, b, 1e-5),
        *(t(2, 3, 5), t(5), t(5)),
    ),
    case("rms_norm", lambda x, w: F.rms_norm(x, [5], w), t(2, 3, 5), t(5)),
    case("rms_norm 2d", lambda x: F.rms_norm(x, [3, 5]), t(2, 3, 5)),
    case("weight_norm", lambda v, g: torch._weight_norm(v, g, 0), t(6, 5, 3), p(6, 1, 1)),
    case("weight_norm last", lambda v, g: torch._weight_norm(v, g, 2), t(6, 5, 3), p(1, 1, 3)),
    case("weight_norm of all", lambda v, g: torch._weight_norm(v, g, -1), t(6, 5), p(1)[0]),
    case(
        "weight_norm interface",
        lambda v, g: A._weight_norm_interface(v, g, 0),
        *(t(6, 5, 3), p(6, 1, 1)),
    ),
    case("softmax", lambda x: x.softmax(-1), t(2, 3, 4)),
    case("softmax middle", lambda x: x.softmax(1), t(2, 3, 4)),
    case("softmin", lambda x: F.softmin(x, 1), t(2, 3, 4)),
    case("log_softmax", lambda x: x.log_softmax(1), t(2, 3, 4)),
    case("native softmax", lambda x: A._softmax(x, 1, False), t(2, 3, 4)),
    case("native log_softmax", lambda x: A._log_softmax(x, -1, False), t(2, 3, 4)),
    case("normalize", lambda x: F.normalize(x, dim=1), t(2, 3, 4)),
    case("local response", lambda x: F.local_response_norm(x, 3), t(2, 6, 4, 5), missed=True),
]
if hasattr(A, "_fused_rms_norm"):  # not in PyTorch 2.7
    CASES.append(
        case("fused rms_norm", lambda x, w: A._fused_rms_norm(x, [5], w, 1e-5), t(2, 3, 5), t(5))
    )


@each(CASES)
def test_rule(case: Case) -> None:
    check(case)

"""Operations of torchvision: deformable convolutions, regions of interest."""

from __future__ import annotations

import torch
from torchvision.ops import deform_conv2d, roi_align, roi_pool

from graphprune.rules import locked_types
from tests.rules.cases import Case, case, check, each, p, t

_X = t(2, 12, 5, 7)
_ROIS = torch.tensor([[0.0, 0, 0, 3, 4], [1, 1, 0, 4, 3], [1, 0, 1, 3, 2]])


def _deformed(name: str, groups: int, offsets: int, mask: bool = False) -> Case:
    weight, bias, places = t(8, 12 // groups, 3, 3), t(8), 9 * offsets
    return case(
        f"deform_conv2d {name}",
        lambda x, o, w, b, m: deform_conv2d(x, o, w, b, padding=1, mask=m if mask else None),
        _X, t(2, 2 * places, 5, 7), weight, bias, p(2, places, 5, 7),
    )  # fmt: skip


CASES = [
    _deformed("plain", 1, 1),
    _deformed("with a mask", 1, 1, mask=True),
    _deformed("in groups", 4, 1),
    _deformed("with groups of offsets", 1, 3, mask=True),
    _deformed("with more groups of offsets", 2, 4),
    _deformed("with fewer groups of offsets", 4, 2),
    _deformed("with groups that do not divide", 2, 3),
    case("roi_align", lambda x, r: roi_align(x, r, 2), _X, _ROIS),
    case("roi_pool", lambda x, r: roi_pool(x, r, 2), _X, _ROIS),
]


@each(CASES)
def test_rule(case: Case) -> None:
    check(case)


def test_every_operation_has_a_rule_or_is_locked_on_purpose() -> None:
    known = {case.name.split()[0] for case in CASES} | {
        name.removeprefix("torchvision.") for name in locked_types()
    }
    public = {name for name in dir(torch.ops.torchvision) if not name.startswith("_")}
    operations = {n for n in public if hasattr(getattr(torch.ops.torchvision, n), "overloads")}
    assert operations - known == set()

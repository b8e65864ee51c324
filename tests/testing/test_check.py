"""The rule checker itself: what is wrong is found, and what is right is let pass."""

from __future__ import annotations

import importlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F

from graphprune.core.errors import AxisError, VerifyError
from graphprune.rules import known_types, locked_types, registry
from graphprune.rules.registry import Stated
from graphprune.testing.check import check_rule, missed
from tests.rules.cases import Case, below, t, types

# A constant's lift is taken away by torch.export; the grouped product exists in bfloat16 alone, and
# is checked by its stand-in of the same signature.
NEVER_EXPORTED = {"aten.lift_fresh", "aten._grouped_mm"}
# They refuse a matrix with zeros, which the check passes; others of the same rule are checked.
INVERTING = {f"aten.{x}" for x in ("inverse", "linalg_inv", "linalg_solve", "linalg_lu_factor",
                                   "linalg_ldl_factor", "cholesky_inverse")}  # fmt: skip
RULES = Path(__file__).parents[1] / "rules"


def _case_types() -> set[str]:
    seen: set[str] = set()
    for path in sorted(RULES.glob("test_*.py")):
        module = importlib.import_module(f"tests.rules.{path.stem}")
        for case in getattr(module, "CASES", ()):
            if isinstance(case, Case):  # ONNX operators have a test of their own
                seen.update(types(case))
    return seen


def _exists(name: str) -> bool:
    namespace, _, function = name.partition(".")
    return namespace == "aten" and hasattr(torch.ops.aten, function)


def test_every_known_type_is_checked() -> None:
    left_out = set(known_types()) - set(locked_types()) - _case_types()
    left_out -= NEVER_EXPORTED | INVERTING
    assert {name for name in left_out if _exists(name)} == set()


def test_every_core_operation_has_a_rule_or_is_locked_on_purpose() -> None:
    core = set()
    for schema in torch._C._jit_get_all_schemas():
        space, _, name = schema.name.partition("::")
        if space == "aten":
            overload = getattr(getattr(torch.ops.aten, name), schema.overload_name or "default")
            if torch.Tag.core in overload.tags:
                core.add(f"aten.{name if name.endswith('__') else name.removesuffix('_')}")
    assert len(core) > 100
    assert core - set(known_types()) == set()


def _replaced(
    monkeypatch: pytest.MonkeyPatch, name: str, rule: Callable[[Any], Any], **options: Any
) -> None:
    given: dict[str, Any] = {"mixes": "", "locks": "", **options}
    monkeypatch.setitem(registry._RULES, name, registry.Rule(rule, **given))


@pytest.mark.parametrize(
    ("name", "signature", "function", "tensors"),
    [
        ("aten.flip", "... -> ...", lambda x: x.flip(1), (t(3, 6),)),
        ("aten.roll", "... -> ...", lambda x: x.roll(1, 1), (t(3, 6),)),
        ("aten.softmax", "... -> ...", lambda x: x.softmax(1), (t(3, 6),)),
        ("aten.tril", "... -> ...", lambda x: x.tril(), (t(4, 6),)),
        ("aten.linear", "... i, o j -> ... o", F.linear, (t(3, 6), t(4, 6))),
        ("aten.flatten", "a b -> (b a)", torch.flatten, (t(4, 6),)),
        ("aten.embedding", "v e, ... -> ... e", F.embedding, (below(7, 4), t(7, 5))),
        (
            "aten.conv2d",
            "n i ..., o i *k -> n o ...",
            lambda x, w: F.conv2d(x, w, padding=1),
            (t(2, 4, 5, 6), t(7, 4, 3, 3)),
        ),
        (
            "aten.scaled_dot_product_attention",
            "... q d, ... k d, ... k v -> ... q v",
            F.scaled_dot_product_attention,
            (t(2, 4, 6), t(2, 5, 6), t(2, 5, 7)),
        ),
    ],
)
def test_a_wrong_rule_is_found(
    name: str,
    signature: str,
    function: Callable[..., Any],
    tensors: tuple[torch.Tensor, ...],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    _replaced(monkeypatch, name, lambda op: signature)
    says = (
        rf"^{name} at \w+: the rule '.*' is wrong on the shapes \[.* -> \[.*: without some .* dim "
    )
    with pytest.raises(VerifyError, match=says) as caught:
        check_rule(function, *tensors)
    assert caught.value.difference > 1e-6


@pytest.mark.parametrize(
    ("name", "signature", "function", "tensors", "says"),
    [
        (
            "aten.cdist",
            "n d, m d -> n m",
            torch.cdist,
            (t(3, 5), t(4, 5)),
            r"\[3, 5\], \[4, 5\] -> \[3, 4\]: it contracts .* of operand 0 .*: state linear=False",
        ),
        (
            "aten.addmm",
            "o, n i, i o -> n o",
            lambda b, x, w: torch.addmm(b, x, w, beta=2),
            (t(4), t(3, 5), t(5, 4)),
            r"operand 0 is taken for a bias, but is not added along dimension 1 .* differs by ",
        ),
        (
            "aten.addmm",
            "o, n i, i o -> n o",
            lambda b, x, w: torch.addmm(b, x, w, alpha=0.5),
            (t(4), t(3, 5), t(5, 4)),
            None,  # still linear, and the bias is added
        ),
    ],
)
def test_what_is_taken_for_a_product_is_one(
    name: str,
    signature: str,
    function: Callable[..., Any],
    tensors: tuple[torch.Tensor, ...],
    says: str | None,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    _replaced(monkeypatch, name, lambda op: signature)
    if says is None:
        check_rule(function, *tensors)
        return
    with pytest.raises(VerifyError, match=rf"^{name} at \w+: the rule '.*' is wrong .*{says}"):
        check_rule(function, *tensors)
    _replaced(monkeypatch, name, lambda op: signature, stated=Stated(linear=False))
    check_rule(function, *tensors)


def test_results_of_another_shape_are_found(monkeypatch: pytest.MonkeyPatch) -> None:
    _replaced(monkeypatch, "aten.relu", lambda op: [op.dims()[:1]])
    with pytest.raises(AxisError, match=r"gives result 0 the shape \[3\], not \[3, 6\]"):
        check_rule(torch.relu, t(3, 6))


def test_a_forgotten_size_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    def view(op: Any) -> Any:
        return "a (b c=3) -> a b c"

    _replaced(monkeypatch, "aten.view", view)
    with pytest.raises(VerifyError, match="invalid for input of size"):
        check_rule(lambda x: x.view(2, 4, 3), t(2, 12))


def test_an_unknown_operation_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delitem(registry._RULES, "aten.relu")
    with pytest.raises(AxisError, match=r"aten\.relu at relu has no rule"):
        check_rule(torch.relu, t(3, 6))


def test_a_rule_that_does_not_fit_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    _replaced(monkeypatch, "aten.relu", lambda op: "a b c -> a b c")
    with pytest.raises(AxisError, match="does not fit the shapes"):
        check_rule(torch.relu, t(3, 6))


@pytest.mark.parametrize(
    ("name", "function", "tensors", "place"),
    [
        ("aten.relu", torch.relu, (t(3, 6),), "operand 0 [3, 6] dim 1"),
        ("aten.sum", lambda x: x.sum(1), (t(3, 6),), "operand 0 [3, 6] dim 1"),
        (
            "aten.add",
            torch.add,
            (t(3, 6), t(3, 6)),
            "operand 0 [3, 6] dim 1, operand 1 [3, 6] dim 1",
        ),
        (
            "aten.linear",
            F.linear,
            (t(3, 6), t(4, 6)),
            "operand 0 [3, 6] dim 1, operand 1 [4, 6] dim 1",
        ),
    ],
)
def test_a_needless_lock_is_found(
    name: str,
    function: Callable[..., Any],
    tensors: tuple[torch.Tensor, ...],
    place: str,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    _replaced(monkeypatch, name, lambda op: op.opaque("for no reason"))
    found = missed(function, *tensors)
    assert any(line.startswith(f"{name} ") and place in line for line in found)
    assert all("for no reason at" in line for line in found)
    check_rule(function, *tensors)


def test_a_needless_mixing_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    _replaced(monkeypatch, "aten.relu", lambda op: "n c -> n c", mixes="c")
    assert missed(torch.relu, t(3, 6)) == [
        "aten.relu (relu): operand 0 [3, 6] dim 1, result 0 [3, 6] dim 1: mixed"
    ]


def test_needed_locks_are_let_pass() -> None:
    assert missed(lambda x: x.flip(1).roll(1, 0).softmax(1).amax(1), t(4, 6)) == []


def test_random_operations_are_compared_by_shape() -> None:
    assert check_rule(lambda x: F.dropout(x, 0.5, True), t(3, 6)) == ["aten.dropout"]


def test_the_arguments_are_left_alone() -> None:
    x = t(3, 6)
    check_rule(lambda y: y.mul_(2).relu_(), x)
    assert torch.equal(x, t(3, 6))

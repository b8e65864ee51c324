"""Every rule keeps its word on numbers; a wrong one is found out; what must lock, locks."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch.nn import functional as F

from graphprune.axes import atoms
from graphprune.errors import VerifyError
from graphprune.rules import known_types, registry
from graphprune.rules.check import _captured, _inferred, check_rule
from tests.rules.cases import CASES
from tests.rules.tensors import k, p, t

_SEEN: set[str] = set()

# Names that torch.export never emits: they decompose on capture, have lengths that depend on
# the data, or live in Python only.
NEVER_EXPORTED = {
    *("aten.bfloat16", "aten.bool", "aten.double", "aten.float", "aten.half", "aten.int"),
    *("aten.long", "aten.item", "aten.lift_fresh", "aten.unique_dim", "aten.fractional_max_pool1d"),
    *("aten._adaptive_avg_pool1d", "aten.lp_pool1d", "aten.lp_pool2d", "aten.lp_pool3d"),
    *("aten.softmin", "aten.softsign", "aten.tanhshrink"),
}


@pytest.mark.parametrize("name", CASES)
@pytest.mark.filterwarnings("ignore")
def test_removal_equals_masking(name: str) -> None:
    function, tensors = CASES[name]
    for seed in range(3):
        _SEEN.update(check_rule(function, *tensors, seed=seed))


def test_every_known_type_has_a_case() -> None:
    if not _SEEN:
        pytest.skip("needs the cases to have run")
    assert set(known_types()) - _SEEN - NEVER_EXPORTED == set()


def _free(function: Callable[..., Any], *tensors: torch.Tensor) -> list[set[int]]:
    """For each input, the sizes of its axes that no rule locks."""
    graph = _captured(function, tensors)
    deps = _inferred(graph)
    return [
        {axis.size for dim in deps.dims[value] for axis in atoms(dim) if axis.reason is None}
        for value in graph.inputs
    ]


@pytest.mark.parametrize(
    "type_, function",
    [
        ("aten.flip", lambda x: x.flip(1)),
        ("aten.roll", lambda x: x.roll(1, 1)),
        ("aten.softmax", lambda x: x.softmax(1)),
    ],
)
@pytest.mark.parametrize("seed", range(3))
def test_a_wrong_rule_is_found_out(
    type_: str, function: Any, seed: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    elementwise = registry.Rule(lambda op: "... -> ...", "", "")
    monkeypatch.setitem(registry._RULES, type_, elementwise)
    with pytest.raises(VerifyError, match=type_) as caught:
        check_rule(function, t(4, 9), seed=seed)
    assert caught.value.layer == type_
    assert caught.value.difference > 1e-6


@pytest.mark.parametrize(
    "type_, signature, function, tensors",
    [
        ("aten.linear", "... i, o j -> ... o", F.linear, (t(3, 6), t(4, 6))),  # not contracted
        ("aten.cat", "... a, ... b -> ... (b + a)", lambda *x: torch.cat(x, -1), (t(6), t(5))),
        ("aten.transpose", "a b -> a b", lambda x: x.transpose(0, 1), (t(6, 6),)),
        ("aten.flatten", "a b -> (b a)", lambda x: x.flatten(), (t(6, 5),)),
        ("aten.relu", "a b -> a", F.relu, (t(6, 5),)),  # a dimension lost
        ("aten.sum", "a b ->", lambda x: x.sum(1), (t(6, 5),)),
    ],
)
def test_a_wrong_signature_is_found_out(
    type_: str, signature: str, function: Any, tensors: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(op: Any) -> Any:
        if type_ in ("aten.relu", "aten.sum"):  # no signature can be that wrong
            return [op.dims()[:1] if type_ == "aten.relu" else []]
        return signature

    monkeypatch.setitem(registry._RULES, type_, registry.Rule(broken, "", ""))
    with pytest.raises(VerifyError, match=type_):
        check_rule(function, *tensors)


@pytest.mark.parametrize(
    "function, tensors, free",
    [
        (lambda x: x.flip(1), (t(3, 5),), [{3}]),
        (lambda x: x.roll(1, 1), (t(3, 5),), [{3}]),
        (lambda x: x.roll(1), (t(3, 5),), [set()]),
        (lambda x: x.cumsum(1), (t(3, 5),), [{3}]),
        (lambda x: x.argmax(1), (t(3, 5),), [{3}]),
        (lambda x: x.tril(), (t(2, 3, 5),), [{2}]),
        (lambda x: x + torch.arange(5), (t(3, 5),), [{3}]),
        (lambda x: x[:, ::2], (t(3, 8),), [{3, 4}]),
        (lambda x: x.reshape(9, 4), (t(6, 6),), [set()]),
        (lambda x: F.pad(x, (1, 1), "reflect"), (t(4, 3, 7),), [{4, 3}]),
        (lambda x: F.pixel_shuffle(x, 2), (t(3, 20, 7, 6),), [{3, 5, 7, 6}]),
        (lambda x: F.channel_shuffle(x, 3), (t(2, 15, 4, 4),), [{2, 5, 4}]),
        (lambda x, i: x.index_select(1, i), (t(3, 5), k(5, 4)), [{3}, {4}]),
        (lambda i, w: F.embedding(i, w), (k(7, 3), t(7, 5)), [{3}, {5}]),
        (F.conv2d, (t(2, 4, 8, 9), t(6, 4, 3, 3)), [{2, 4}, {6, 4}]),
        (F.conv2d, (t(2, 4, 8, 9), t(6, 4, 1, 1)), [{2, 4, 8, 9}, {6, 4}]),
        (F.grid_sample, (t(2, 3, 5, 6), p(2, 4, 4, 2)), [{2, 3}, {2}]),
    ],
)
@pytest.mark.filterwarnings("ignore")
def test_what_stays_free(function: Any, tensors: Any, free: list[set[int]]) -> None:
    assert _free(function, *tensors) == free


def test_one_index_selected_must_stay() -> None:
    assert _free(lambda x: x[:, 3], t(2, 8)) == [{2, 3, 4}]  # 3 before, 4 behind


def test_a_recurrence_keeps_its_steps() -> None:
    function, tensors = CASES["lstm"]
    x, *states_and_weights = _free(function, *tensors)
    assert x == {2, 5}  # batch and features, not the 4 steps
    assert states_and_weights[:2] == [{2, 6}, {2, 6}]


def test_odd_channel_shuffle_by_reshape() -> None:
    def shuffle(x: torch.Tensor) -> torch.Tensor:
        a, b = x.unflatten(1, (-1, 2)).transpose(1, 2).flatten(1, 2).chunk(2, 1)
        return a * b

    assert check_rule(shuffle, t(2, 14, 3)) >= {"aten.chunk", "aten.mul"}

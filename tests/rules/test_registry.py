"""The table of rules: registration, and what becomes of operations without a rule."""

from __future__ import annotations

import pytest

import graphprune
from graphprune.core.axes import Dim, atom, atoms
from graphprune.core.errors import AxisError
from graphprune.core.graph import Op, Value
from graphprune.rules import axis_rule, infer, is_known, known_types, registry
from graphprune.rules.site import Site


def _call(type_: str, *shapes: tuple[int, ...]) -> tuple[Op, dict[Value, list[Dim]]]:
    """An operation whose result has the first operand's shape, and its operands' axes."""
    inputs: list[Value | None] = [
        Value(f"x{i}", shape, "float32") for i, shape in enumerate(shapes)
    ]
    op = Op("call", type_, inputs, [Value("y", shapes[0], "float32")])
    return op, {value: [atom(n) for n in value.shape] for value in inputs if value is not None}


def _ours(function: registry.RuleFunction) -> registry.RuleFunction:
    """A function that seems to come with the library."""
    function.__module__ = "graphprune.rules.mine"
    return function


def _reasons(dims: list[Dim]) -> set[str | None]:
    return {axis.reason for dim in dims for axis in atoms(dim)}


def test_register_and_apply(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(registry, "_RULES", dict(registry._RULES))

    @axis_rule("my.scale", mixes="c")
    def scale(op: Site) -> str:
        return "n c ..., c -> n c ..."

    assert is_known("my.scale")
    assert "my.scale" in known_types()
    op, dims = _call("my.scale", (2, 3, 5), (3,))
    (out,), effect = infer(op, dims)
    assert list(atoms(out[1])) == list(atoms(dims[op.inputs[1]][0]))
    assert effect.mixes == [out[1]]


def test_a_type_has_one_rule() -> None:
    with pytest.raises(AxisError, match=r"aten\.relu has a rule already: unary"):
        axis_rule("aten.relu")(lambda op: "... -> ...")


def test_locked_on_purpose(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("_RULES", "_LOCKED"):
        monkeypatch.setattr(registry, name, dict(getattr(registry, name)))
    registry.locked("no one knows", "my.riddle")
    op, dims = _call("my.riddle", (2, 3))
    results, _ = infer(op, dims)
    assert is_known("my.riddle")
    assert registry.locked_types()["my.riddle"] == "no one knows"
    assert _reasons(results[0]) == {"no one knows: my.riddle at call"}


def test_the_public_name() -> None:
    assert graphprune.axis_rule is axis_rule


def test_an_unknown_operation_locks_and_is_named() -> None:
    op, dims = _call("my.unheard_of", (2, 3))
    results, _ = infer(op, dims)
    assert not is_known("my.unheard_of")
    for found in (*results, *dims.values()):
        assert _reasons(found) == {"unknown operation my.unheard_of at call"}


def test_a_rule_that_does_not_fit_locks(monkeypatch: pytest.MonkeyPatch) -> None:
    rule = registry.Rule(_ours(lambda op: "a b c -> a b c"))
    monkeypatch.setitem(registry._RULES, "my.misfit", rule)
    op, dims = _call("my.misfit", (2, 3))
    results, effect = infer(op, dims)
    assert not effect.mixes
    for found in (*results, *dims.values()):
        (reason,) = _reasons(found)
        assert reason is not None
        assert "my.misfit at call: the rule 'a b c -> a b c' does not fit" in reason
        assert "[2, 3] -> [2, 3]: operand 0 has 2 dimensions, its pattern 3" in reason


@pytest.mark.parametrize(
    ("rule", "cause"),
    [
        (lambda op: "a b => a b", "has no '->'"),
        (lambda op: "a b c -> a b c", "operand 0 has 2 dimensions, its pattern 3"),
        (lambda op: "a b -> a b c", "result 0 has 2 dimensions, its pattern 3"),
        (lambda op: "... b -> b", r"result 0 would have the shape \[3\]"),
        (lambda op: "a b -> b a", r"result 0 would have the shape \[3, 2\]"),
        (lambda op: "a a -> a a", "dimension 1 of operand 0 is 3 long, but 'a' is 2 elsewhere"),
        (lambda op: "a (b -> a b", "open bracket"),
        (lambda op: op.shapee(), "AttributeError"),
        (lambda op: None, "must return a signature or a list of dimensions, not None"),
        (lambda op: [], "gives 0 of 1 results"),
        (lambda op: [op.dims()[:1]], r"gives result 0 the shape \[2\], not \[2, 3\]"),
    ],
)
def test_a_wrong_rule_of_ones_own_is_an_error(
    rule: registry.RuleFunction, cause: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(registry._RULES, "my.wrong", registry.Rule(rule))
    op, dims = _call("my.wrong", (2, 3))
    with pytest.raises(AxisError, match=rf"my\.wrong at call: the rule .*{cause}"):
        infer(op, dims)


def test_every_operand_and_result_has_a_pattern(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(registry._RULES, "my.wrong", registry.Rule(lambda op: "a b -> a b"))
    op, dims = _call("my.wrong", (2, 3), (3,))
    with pytest.raises(AxisError, match="operand 1 has no pattern"):
        infer(op, dims)


@pytest.mark.parametrize("letters", ["r", "..."])
def test_letters_may_be_fixed(letters: str, monkeypatch: pytest.MonkeyPatch) -> None:
    rule = registry.Rule(lambda op: "... r -> ... r", "", letters)
    monkeypatch.setitem(registry._RULES, "my.fixed", rule)
    op, dims = _call("my.fixed", (2, 4))
    infer(op, dims)
    lead, last = dims[op.inputs[0]]
    assert (None in _reasons([last])) == (letters != "r")
    assert (None in _reasons([lead])) == (letters != "...")

"""The notation of signatures: what it accepts, and how it complains."""

from __future__ import annotations

import pytest

from graphprune.core.errors import AxisError
from graphprune.rules.notation import Term, parse


def test_every_kind_of_term() -> None:
    signature = parse("n (g=4 i) *k, (a + b), 1 ... -> n (g i) *")
    assert signature.inputs[0] == (
        Term("name", ("n",), (None,)),
        Term("product", ("g", "i"), (4, None)),
        Term("star", ("*k",)),
    )
    assert signature.inputs[1] == (Term("sum", ("a", "b"), (None, None)),)
    assert signature.inputs[2] == (Term("one"), Term("ellipsis", ("...",)))
    assert len(signature.outputs) == 1


def test_letters_without_a_result_are_contracted() -> None:
    signature = parse("... i, o i, o -> ... o")
    assert signature.contracted == {"i"}
    assert set(signature.counted) == {"i", "o", "..."}


def test_windows_count() -> None:
    assert set(parse("n i *, o i *k, o -> n o *s").counted) == {"n", "i", "o", "*k", "*s"}


@pytest.mark.parametrize("text", ["n c -> n c", "n c, c -> n c", "n c -> n"])
def test_nothing_to_count(text: str) -> None:
    assert parse(text).counted == ()


def test_a_scalar_has_an_empty_pattern() -> None:
    signature = parse("k, k ->")
    assert signature.outputs == ((),)
    assert signature.contracted == {"k"}


@pytest.mark.parametrize(
    "text, piece",
    [
        ("n c, c", "n c, c"),
        ("n $c -> n c", "$c"),
        ("n (g c -> n", "(g c"),
        ("... *k -> n", "... *k"),
        ("n -> n &", "&"),
        ("n 2 -> n", "2"),
    ],
)
def test_errors_show_the_piece(text: str, piece: str) -> None:
    with pytest.raises(AxisError) as caught:
        parse(text)
    assert piece in str(caught.value)

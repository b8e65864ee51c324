"""What is known of operations: read off their signatures, or stated beside them."""

from __future__ import annotations

import ast
import sys
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any
from unittest.mock import Mock

import onnx
import pytest
import torch
import torch.nn.functional as F
from onnx import TensorProto, helper, numpy_helper
from torch import nn

from graphprune.core.graph import Op
from graphprune.frontends.onnx.lift import lift as lift_file
from graphprune.frontends.onnx.model import read_model
from graphprune.frontends.torch.lift import lift
from graphprune.rules import facts, known_types, registry
from graphprune.rules.products import products
from graphprune.rules.readings import Reading, reading, recurrent
from graphprune.rules.scalings import is_batch_norm, is_norm, norm_channel
from tests.rules.cases import t

ROOT = Path(__file__).parent.parent.parent
OUTSIDE = ("rules", "frontends", "testing")  # which may name operations


class Held(nn.Module):
    """A function of an input and of parameters."""

    def __init__(self, function: Callable[..., Any], *shapes: tuple[int, ...]) -> None:
        super().__init__()
        self.function = function
        self.held = nn.ParameterList(nn.Parameter(torch.randn(shape)) for shape in shapes)

    def forward(self, x: torch.Tensor) -> Any:
        return self.function(x, *self.held)


def only(module: nn.Module, x: torch.Tensor) -> Op:
    """The last operation of a module that reads a parameter."""
    ops = lift(module, ((x,), {})).graph.ops
    return [op for op in ops if any(v is not None and v.is_weight for v in op.inputs)][-1]


def told(read: Reading, op: Op) -> dict[str, Any]:
    """A reading, its operands by their places, its dimensions counted from the left."""
    place = [*op.inputs, *op.outputs]
    return {
        "source": place.index(read.source),
        "weight": place.index(read.weight),
        "bias": None if read.bias is None else place.index(read.bias),
        "channel": read.channel % len(read.source.shape),
        "inner": read.inner,
        "output": read.output % len(op.outputs[0].shape),
        "groups": read.groups,
        "product": read.product,
        "windows": read.windows,
        "ends": read.ends,
    }


def wanted(
    channel: int,
    output: int,
    *,
    source: int = 0,
    weight: int = 1,
    bias: int | None = None,
    inner: int = 1,
    groups: int = 1,
    product: bool = False,
    windows: bool = False,
    ends: bool = True,
) -> dict[str, Any]:
    """What a reading must be."""
    return locals()


CASES: list[tuple[str, nn.Module, torch.Tensor, dict[str, Any]]] = [
    ("linear", nn.Linear(4, 5), t(2, 3, 4), wanted(2, 2, bias=2)),
    ("linear without a bias", nn.Linear(4, 5, bias=False), t(2, 4), wanted(1, 1)),
    ("conv1d", nn.Conv1d(4, 6, 3), t(2, 4, 9), wanted(1, 1, bias=2, windows=True)),
    ("conv2d", nn.Conv2d(4, 6, 3), t(2, 4, 9, 8), wanted(1, 1, bias=2, windows=True)),
    ("conv2d 1x1", nn.Conv2d(4, 6, 1), t(2, 4, 9, 8), wanted(1, 1, bias=2, windows=True)),
    ("conv3d", nn.Conv3d(4, 6, 3), t(2, 4, 7, 8, 9), wanted(1, 1, bias=2, windows=True)),
    (
        "grouped",
        nn.Conv2d(4, 6, 3, groups=2),
        t(2, 4, 9, 8),
        wanted(1, 1, bias=2, groups=2, windows=True),
    ),
    (
        "depthwise",
        nn.Conv2d(4, 8, 3, groups=4),
        t(2, 4, 9, 8),
        wanted(1, 1, bias=2, groups=4, windows=True),
    ),
    (
        "transposed",
        nn.ConvTranspose2d(4, 6, 3),
        t(2, 4, 9, 8),
        wanted(1, 1, bias=2, inner=0, windows=True),
    ),
    (
        "transposed in groups",
        nn.ConvTranspose1d(4, 6, 3, groups=2),
        t(2, 4, 9),
        wanted(1, 1, bias=2, inner=0, groups=2, windows=True),
    ),
    ("without samples", nn.Conv1d(4, 6, 3), t(4, 9), wanted(0, 0, bias=2, windows=True)),
    (
        "matmul, weight behind",
        Held(torch.matmul, (4, 5)),
        t(2, 3, 4),
        wanted(2, 2, inner=0, product=True),
    ),
    (
        "matmul, weight ahead",
        Held(lambda x, w: w @ x, (5, 3)),
        t(2, 3, 4),
        wanted(1, 1, source=1, weight=0, product=True),
    ),
    ("mm", Held(torch.mm, (4, 5)), t(3, 4), wanted(1, 1, inner=0, product=True)),
    (
        "addmm",
        Held(lambda x, w, b: torch.addmm(b, x, w), (4, 5), (5,)),
        t(3, 4),
        wanted(1, 1, source=1, weight=2, bias=0, inner=0),
    ),
    (
        "einsum",
        Held(lambda x, w: torch.einsum("bsi,oi->bso", x, w), (5, 4)),
        t(2, 3, 4),
        wanted(2, 2, product=True),
    ),
    (
        "einsum, weight ahead",
        Held(lambda x, w: torch.einsum("io,bis->bos", w, x), (4, 5)),
        t(2, 4, 3),
        wanted(1, 1, source=1, weight=0, inner=0, product=True),
    ),
]


@pytest.mark.parametrize(
    ("module", "x", "expected"), [case[1:] for case in CASES], ids=[case[0] for case in CASES]
)
def test_readings_of_torch(module: nn.Module, x: torch.Tensor, expected: dict[str, Any]) -> None:
    op = only(module, x)
    read = reading(op)
    assert isinstance(read, Reading)
    assert told(read, op) == expected


@pytest.mark.parametrize(
    ("function", "shapes", "x", "reason"),
    [
        (lambda x, w: torch.bmm(x, w), [(2, 4, 5)], t(2, 3, 4), Reading),
        (lambda x, w: torch.tensordot(x, w, 2), [(3, 4, 5)], t(2, 3, 4), "several dimensions"),
        (lambda x, w: torch.einsum("bni,nio->bno", x, w), [(3, 4, 5)], t(2, 3, 4), "matrices"),
        (lambda x, w: F.bilinear(x, x, w), [(5, 4, 4)], t(3, 4), "several operands"),
        (lambda x, w: torch.cdist(x, w), [(5, 4)], t(3, 4), None),
        (lambda x, w: x * w, [(4,)], t(3, 4), None),
        (lambda x, w: F.scaled_dot_product_attention(x, w, w), [(2, 5, 4)], t(2, 3, 4), None),
        (
            lambda x, w, b: torch.addmm(b, x, w, beta=2),
            [(4, 5), (5,)],
            t(3, 4),
            "multiplies by a factor",
        ),
        (lambda x, w, b: torch.addmm(b, x, w), [(4, 5), (3, 5)], t(3, 4), "something else"),
    ],
)
def test_what_cannot_be_solved_for_says_why(
    function: Callable[..., Any], shapes: list[tuple[int, ...]], x: torch.Tensor, reason: Any
) -> None:
    read = reading(only(Held(function, *shapes), x))
    if isinstance(reason, str):
        assert isinstance(read, str)
        assert reason in read
    else:
        assert read is None if reason is None else isinstance(read, reason)


@pytest.mark.parametrize("layer", [nn.LSTM, nn.GRU, nn.RNN])
@pytest.mark.parametrize("both", [False, True])
def test_recurrent_layers_read_inputs_and_states(layer: Any, both: bool) -> None:
    module = layer(4, 6, bidirectional=both)
    (op,) = [op for op in lift(module, ((t(3, 2, 4),), {})).graph.ops if facts.is_recurrent(op)]
    found = [(read.weight.name, read.bias and read.bias.name) for read in recurrent(op)]
    forwards = ("weight_ih_l0", "bias_ih_l0")
    states = ("weight_hh_l0", "bias_hh_l0")
    backwards = ("weight_ih_l0_reverse", "bias_ih_l0_reverse")
    assert found == ([forwards, backwards] if both else [forwards, states])
    assert all((read.channel, read.inner, read.output) == (-1, 1, -1) for read in recurrent(op))
    assert reading(op) is None


def test_cells_read_inputs_and_states() -> None:
    graph = lift(nn.LSTMCell(4, 6), ((t(2, 4),), {})).graph
    (op,) = [op for op in graph.ops if facts.is_recurrent(op)]
    assert [read.weight.name for read in recurrent(op)] == ["weight_ih", "weight_hh"]


def file(op_type: str, x: tuple[int, ...], *shapes: tuple[int, ...], **attrs: Any) -> Op:
    """The operation of an ONNX model that has no other; its weights have these shapes."""
    domain = attrs.pop("domain", "")
    held = [numpy_helper.from_array(t(*shape).numpy(), f"w{i}") for i, shape in enumerate(shapes)]
    node = helper.make_node(op_type, ["x", *(w.name for w in held)], ["y"], domain=domain, **attrs)
    graph = helper.make_graph(
        [node],
        "one",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, x)],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, list("abcd"[: len(x)]))],
        held,
    )
    imports = [helper.make_opsetid("", 18), helper.make_opsetid("com.microsoft", 1)]
    model = onnx.helper.make_model(graph, opset_imports=imports, ir_version=9)
    (op,) = lift_file(read_model(model), {}).graph.ops
    return op


_FUSED = {"domain": "com.microsoft"}


@pytest.mark.parametrize(
    ("op", "expected"),
    [
        (lambda: file("Gemm", (3, 4), (5, 4), (5,), transB=1), wanted(1, 1, bias=2)),
        (lambda: file("Gemm", (3, 4), (4, 5), (1, 5)), wanted(1, 1, bias=2, inner=0)),
        (lambda: file("Gemm", (4, 3), (4, 5), transA=1), wanted(0, 1, inner=0)),
        (lambda: file("MatMul", (2, 3, 4), (4, 5)), wanted(2, 2, inner=0, product=True)),
        (
            lambda: file("Conv", (2, 4, 9), (6, 2, 3), (6,), group=2),
            wanted(1, 1, bias=2, groups=2, windows=True),
        ),
        (
            lambda: file("ConvTranspose", (2, 4, 9), (4, 6, 3)),
            wanted(1, 1, inner=0, windows=True),
        ),
        (
            lambda: file("FusedConv", (2, 4, 9), (6, 4, 3), (6,), activation="Relu", **_FUSED),
            wanted(1, 1, bias=2, windows=True, ends=False),
        ),
        (
            lambda: file("FusedGemm", (3, 4), (5, 4), (5,), transB=1, activation="Relu", **_FUSED),
            wanted(1, 1, bias=2, ends=False),
        ),
        (
            lambda: file("FusedMatMul", (2, 3, 4), (5, 4), transB=1, **_FUSED),
            wanted(2, 2, product=True),
        ),
        (
            lambda: file("Einsum", (2, 3, 4), (4, 5), equation="bsi,io->bso"),
            wanted(2, 2, inner=0, product=True),
        ),
    ],
)
def test_readings_of_onnx(op: Callable[[], Op], expected: dict[str, Any]) -> None:
    made = op()
    read = reading(made)
    assert isinstance(read, Reading)
    assert told(read, made) == expected


def test_a_factor_is_no_plain_reading() -> None:
    assert reading(file("Gemm", (3, 4), (4, 5), alpha=0.5)) == "it multiplies by a factor"
    scaled = file("FusedMatMul", (2, 3, 4), (4, 5), alpha=0.5, **_FUSED)
    assert reading(scaled) == "it multiplies by a factor"


@pytest.mark.parametrize(
    ("module", "x", "channel"),
    [
        (nn.BatchNorm2d(4), t(2, 4, 3, 3), 1),
        (nn.GroupNorm(2, 4), t(2, 4, 3, 3), 1),
        (nn.LayerNorm(4), t(2, 3, 4), -1),
        (nn.RMSNorm(4), t(2, 3, 4), -1),
        (nn.LayerNorm([3, 4]), t(2, 3, 4), None),
        (nn.Linear(4, 4), t(2, 4), None),
    ],
)
def test_norms_have_a_channel(module: nn.Module, x: torch.Tensor, channel: int | None) -> None:
    op = only(module.eval(), x)
    assert is_norm(op) == (not isinstance(module, nn.Linear))
    assert norm_channel(op) == channel
    assert is_batch_norm(op) == isinstance(module, nn.BatchNorm2d)


def test_a_rule_is_applied_once_for_each_operation(monkeypatch: pytest.MonkeyPatch) -> None:
    op = only(nn.Linear(4, 6), t(2, 4))
    assert reading(op) is not None and products(op)
    rule = registry._RULES["aten.linear"]
    spy = Mock(side_effect=rule.function, __name__="linear")
    monkeypatch.setitem(registry._RULES, "aten.linear", replace(rule, function=spy))
    for _ in range(3):
        assert isinstance(reading(op), Reading)
        assert len(products(op)) == 1
    assert spy.call_count == 1, "once for the new rule"
    op.inputs = op.inputs[:2]
    read = reading(op)
    assert isinstance(read, Reading) and read.bias is None, "other operands are looked at anew"


def test_what_is_known_of_an_operation_is_held_in_no_table_and_in_no_circle() -> None:
    op = only(nn.Linear(4, 6), t(2, 4))
    before = sys.getrefcount(op)
    assert reading(op) is not None
    assert sys.getrefcount(op) == before


def _named(tree: ast.Module) -> Iterator[ast.Constant]:
    """String constants that are no docstrings."""
    docs = {
        id(node.body[0].value)
        for node in ast.walk(tree)
        if isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef)
        and node.body
        and isinstance(node.body[0], ast.Expr)
    }
    for node in ast.walk(tree):
        if isinstance(node, ast.Constant) and isinstance(node.value, str) and id(node) not in docs:
            yield node


def offenders(source: str) -> list[str]:
    """Operations that a file names, and types of operations that it compares with anything."""
    names = set(known_types())
    short = {name.partition(".")[2] or name for name in names}
    tree = ast.parse(source)
    out = []
    for node in _named(tree):
        words = node.value.split()
        table = len(words) > 2 and all(word in short for word in words)
        if node.value.startswith("aten.") or (node.value in names and node.value[0].isupper()):
            out.append(f"line {node.lineno} names {node.value!r}")
        elif table:
            out.append(f"line {node.lineno} lists operations")
    for node in ast.walk(tree):
        if isinstance(node, ast.Compare):
            sides = [ast.unparse(side) for side in (node.left, *node.comparators)]
            if any(side.endswith(("op.type", "behind.type", "reader.type")) for side in sides):
                out.append(f"line {node.lineno} compares a type: {ast.unparse(node)}")
    return out


def test_no_table_of_operations_stands_elsewhere() -> None:
    found = []
    for place in ("graphprune", "passes"):
        for path in sorted(ROOT.glob(f"{place}/**/*.py")):
            inside = path.relative_to(ROOT).parts
            if "graphprune/passes" in path.as_posix() or (
                inside[0] == "graphprune" and inside[1] in OUTSIDE
            ):
                continue
            found += [f"{path.relative_to(ROOT)}: {line}" for line in offenders(path.read_text())]
    assert not found, "\n".join(found)


def test_such_tables_are_found() -> None:
    assert offenders('A = ("aten.add", "Sub")') == ["line 1 names 'aten.add'", "line 1 names 'Sub'"]
    assert offenders('"""Of aten.add."""\nif op.type == x: pass') == [
        "line 2 compares a type: op.type == x"
    ]
    assert offenders('V = frozenset("view reshape flatten".split())') == ["line 1 lists operations"]

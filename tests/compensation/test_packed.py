"""Matrices of few bits, several in a byte, are solved for on steps of their own."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from onnx import ModelProto, helper, numpy_helper

import graphprune
from graphprune.engine.bits import packed, unpacked
from graphprune.importance.score import score
from tests.frontends.onnx.exports import Array, graph, normal, run

_BLOCK, _HIDDEN, _OUTPUTS = 16, 128, 6


@pytest.mark.parametrize("bits", [2, 4, 8])
def test_bytes_hold_integers_from_their_lowest_bits_on(bits: int) -> None:
    integers = torch.randint(1 << bits, (3, 5, 16), generator=torch.Generator().manual_seed(0))
    held = packed(integers, bits)
    assert held.dtype == torch.uint8 and held.shape == (3, 5, 16 * bits // 8)
    torch.testing.assert_close(unpacked(held, bits), integers.float())
    assert unpacked(torch.tensor([0x2F], dtype=torch.uint8), 4).tolist() == [15, 2]


def _file(bits: int, points: str, biased: bool) -> ModelProto:
    """What is read are mixtures of four; the product with them is quantized in blocks."""
    rng, blocks = np.random.default_rng(bits), _HIDDEN // _BLOCK
    w = rng.normal(size=(_OUTPUTS, blocks, _BLOCK)).astype(np.float32)
    scale = (np.ptp(w, 2) / ((1 << bits) - 1)).astype(np.float32)
    least = -w.min(2) / scale if points else np.full_like(scale, 1 << (bits - 1))
    zero = np.clip(np.round(least), 0, (1 << bits) - 1)
    q = np.clip(np.round(w / scale[..., None]) + zero[..., None], 0, (1 << bits) - 1)
    held = {
        "w1": np.einsum("il,lo->io", normal(6, 4), normal(4, _HIDDEN)), "s": scale,
        "q": packed(torch.as_tensor(q), bits).numpy(), "b": normal(_OUTPUTS),
    }  # fmt: skip
    given = ["a", "q", "s"]
    if points:
        own = packed(torch.as_tensor(zero), bits).numpy()
        held["z"] = own if points == "packed" else zero.astype(np.float32)
    given += ["z"] if points else [""] if biased else []
    given += ["", "b"] if biased else []
    nodes = [
        helper.make_node("MatMul", ["x", "w1"], ["a"]),
        helper.make_node(
            "MatMulNBits", given, ["y" if biased else "c"], domain="com.microsoft",
            K=_HIDDEN, N=_OUTPUTS, bits=bits, block_size=_BLOCK,
        ),
    ]  # fmt: skip
    if not biased:
        nodes.append(helper.make_node("Add", ["c", "b"], ["y"]))
    model = graph(nodes, held, {"x": ["n", 6]}, {"y": ["n", _OUTPUTS]}, opset=17)
    model.opset_import.append(helper.make_opsetid("com.microsoft", 1))
    return model


def _lost(found: Array, wanted: Array) -> float:
    return float(np.square(found - wanted).sum() / np.square(wanted - wanted.mean(0)).sum())


_KINDS = [
    (4, "", 0.02),
    (4, "packed", 0.02),
    (4, "floats", 0.02),
    (8, "", 1e-3),
    (8, "packed", 1e-3),
]


@pytest.mark.parametrize("bits, points, most", _KINDS)
@pytest.mark.parametrize("biased", [False, True])
def test_what_stays_makes_up_for_whole_blocks(
    bits: int, points: str, most: float, biased: bool
) -> None:
    model, x = _file(bits, points, biased), normal(128, 6)
    plan = graphprune.plan(model, 0.5, of="channels", data={"x": x}, effort="fast")
    small = plan.apply()
    assert plan.report is not None and not plan.report.left
    assert _lost(run(small, x=x)[0], run(model, x=x)[0]) < most
    plain = graphprune.shrink(model, 0.5, of="channels", compensate=False)
    assert _lost(run(plain, x=x)[0], run(model, x=x)[0]) > 10 * most


def test_bytes_are_scored_by_the_numbers_that_they_hold() -> None:
    """Blocks that hold what stands for zero go first; their bytes are no zeros."""
    model = _file(4, "", biased=True)
    for tensor in model.graph.initializer:
        held = numpy_helper.to_array(tensor).copy()
        if tensor.name == "q":
            held[:, [2, 5]] = 0x88
        elif tensor.name == "w1":
            held[:] = 1
        tensor.CopyFrom(numpy_helper.from_array(held, tensor.name))
    (found,) = score(graphprune.analyze(model), "l2")
    assert set(np.argsort(found)[:2].tolist()) == {2, 5}

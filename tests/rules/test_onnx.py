"""Every ONNX operator with a rule, tried on numbers."""

from __future__ import annotations

import numpy as np
import pytest

from graphprune.rules import known_types, locked_types
from tests.rules.onnx_cases import Case, check, ints, single

F32 = np.float32
UNARY = """
    Relu LeakyRelu ThresholdedRelu Elu Celu Selu Gelu Mish HardSwish HardSigmoid Sigmoid Tanh
    Softplus Softsign Shrink Neg Abs Exp Reciprocal Sign Sin Cos Tan Atan Sinh Cosh Asinh Erf Floor
    Ceil Round Identity Clip Dropout IsNaN IsInf
"""
POSITIVE = "Sqrt Log Acosh"
BROADCAST = "Add Sub Mul Div Max Min Sum Mean PRelu Equal Greater Less GreaterOrEqual LessOrEqual"
REDUCE = """
    ReduceSum ReduceSumSquare ReduceL1 ReduceL2 ReduceMean ReduceMax ReduceMin ReduceProd
    ReduceLogSumExp
"""

CASES = [
    *(Case(name, name, ((2, 3, 5),)) for name in UNARY.split()),
    *(Case(name, name, ((2, 3, 5), (3, 1))) for name in BROADCAST.split()),
    *(Case(f"{name} all", name, ((2, 3, 5),), {"keepdims": 0}) for name in REDUCE.split()),
    *(Case(f"{name} 18", name, ((2, 3, 5), ints(1))) for name in REDUCE.split()),
    *(
        Case(f"{name} 11", name, ((2, 3, 5),), {"axes": [-1], "keepdims": 0}, opset=11)
        for name in REDUCE.split()
    ),
    Case("reduction of nothing", "ReduceMean", ((2, 3),), {"noop_with_empty_axes": 1}),
    Case("Cast", "Cast", ((2, 3),), {"to": 6}),
    Case("Pow", "Pow", ((2, 3), single(2.0))),
    Case("Where", "Where", (np.array([[True], [False], [True]]), (3, 5), (5,))),
    Case("ArgMax", "ArgMax", ((2, 3, 5),), {"axis": 1, "keepdims": 0}),
    Case("ArgMin", "ArgMin", ((2, 3, 5),), {"axis": -1}),
    # convolutions
    Case("Conv", "Conv", ((2, 3, 7, 8), (4, 3, 3, 3), (4,))),
    Case("Conv grouped", "Conv", ((2, 6, 7), (8, 3, 3), (8,)), {"group": 2}),
    Case("Conv depthwise", "Conv", ((2, 6, 7, 5), (12, 1, 3, 3)), {"group": 6}),
    Case("Conv pointwise", "Conv", ((2, 3, 7, 5), (4, 3, 1, 1)), {"kernel_shape": [1, 1]}),
    Case("ConvTranspose", "ConvTranspose", ((2, 3, 5, 4), (3, 7, 2, 2), (7,)), {"strides": [2, 2]}),
    Case("ConvTranspose grouped", "ConvTranspose", ((2, 6, 5), (6, 4, 3)), {"group": 3},
         runtime=True),
    # products
    Case("MatMul", "MatMul", ((2, 3, 5), (5, 7))),
    Case("MatMul of batches", "MatMul", ((2, 3, 4, 5), (3, 5, 7))),
    Case("MatMul by a vector", "MatMul", ((2, 3, 5), (5,))),
    Case("Gemm", "Gemm", ((3, 5), (5, 7), (7,))),
    Case("Gemm transposed", "Gemm", ((5, 3), (7, 5), (3, 1)), {"transA": 1, "transB": 1}),
    Case("Gemm plain", "Gemm", ((3, 5), (5, 7)), {"alpha": 0.5}),
    Case("Einsum", "Einsum", ((2, 3, 5), (2, 5, 7)), {"equation": "bij,bjk->bki"}),
    # normalisation
    Case(
        "BatchNormalization",
        "BatchNormalization",
        ((2, 3, 5, 4), (3,), (3,), (3,), np.array([0.5, 1, 2], F32)),
    ),
    Case(
        "BatchNormalization in training",
        "BatchNormalization",
        ((2, 3, 5, 4), (3,), (3,), (3,), np.array([0.5, 1, 2], F32)),
        {"training_mode": 1},
        ("y", "mean", "var"),
    ),
    Case("InstanceNormalization", "InstanceNormalization", ((2, 3, 5, 4), (3,), (3,))),
    Case("LayerNormalization", "LayerNormalization", ((2, 3, 5), (5,), (5,))),
    Case("LayerNormalization of two", "LayerNormalization", ((2, 3, 5), (3, 5)), {"axis": 1}),
    Case(
        "GroupNormalization by channel",
        "GroupNormalization",
        ((2, 6, 5), (6,), (6,)),
        {"num_groups": 2},
        opset=21,
        runtime=True,
    ),
    Case("RMSNormalization", "RMSNormalization", ((2, 3, 5), (5,)), opset=23),
    Case("LpNormalization", "LpNormalization", ((2, 3, 5),), {"axis": 1}),
    Case("MeanVarianceNormalization", "MeanVarianceNormalization", ((2, 3, 5, 4),),
         runtime=True),
    Case("LRN", "LRN", ((2, 5, 4, 3),), {"size": 3}, runtime=True),
    *(Case(name, name, ((2, 3, 5),), {"axis": 1}) for name in ("Softmax", "LogSoftmax", "Hardmax")),
    Case("Softmax of old", "Softmax", ((2, 3, 5),), {"axis": 1}, opset=11, runtime=True),
    # pooling and space
    *(
        Case(name, name, ((2, 3, 7, 5),), {"kernel_shape": [2, 2]})
        for name in ("MaxPool", "AveragePool", "LpPool")
    ),
    *(Case(name, name, ((2, 3, 7, 5),)) for name in ("GlobalAveragePool", "GlobalMaxPool")),
    Case(
        "MaxPool with positions",
        "MaxPool",
        ((2, 3, 7, 5),),
        {"kernel_shape": [2, 2]},
        ("y", "at"),
    ),
    Case("Resize", "Resize", ((2, 3, 4, 5), None, np.array([1, 1, 2, 2], F32))),
    Case("Resize to sizes", "Resize", ((2, 3, 4, 5), None, None, ints(2, 3, 8, 7))),
    Case("Resize NHWC", "Resize", ((2, 4, 5, 3), None, None, ints(2, 8, 10, 3))),
    Case("Resize of some", "Resize", ((2, 3, 4, 5), None, None, ints(8, 7)), {"axes": [2, -1]},
         runtime=True),
    Case("Resize of one", "Resize", ((2, 3, 4, 5), None, np.array([2], F32)), {"axes": [3]}),
    Case("Upsample", "Upsample", ((2, 3, 4, 5), np.array([1, 1, 2, 2], F32)), opset=9,
         runtime=True),
    Case("DepthToSpace", "DepthToSpace", ((2, 12, 4, 5),), {"blocksize": 2}),
    Case("DepthToSpace CRD", "DepthToSpace", ((2, 12, 4, 5),), {"blocksize": 2, "mode": "CRD"}),
    Case("SpaceToDepth", "SpaceToDepth", ((2, 3, 4, 6),), {"blocksize": 2}),
    Case("GridSample", "GridSample", ((2, 3, 4, 5), (2, 7, 6, 2))),
    Case(
        "RoiAlign",
        "RoiAlign",
        ((2, 3, 8, 7), np.array([[0, 0, 4, 4], [1, 1, 5, 6]], F32), ints(0, 1)),
        {"output_height": 2, "output_width": 2},
        runtime=True,
    ),
    # sums of axes
    Case("Concat", "Concat", ((2, 3, 5), (2, 4, 5)), {"axis": 1}),
    Case("Concat from behind", "Concat", ((2, 3), (2, 4)), {"axis": -1}),
    Case("Split equally", "Split", ((2, 6, 5),), {"axis": 1}, ("a", "b"), opset=13),
    Case("Split in two", "Split", ((2, 6),), {"axis": 1, "num_outputs": 2}, ("a", "b")),
    Case("Split by sizes", "Split", ((2, 7), ints(3, 4)), {"axis": -1}, ("a", "b")),
    Case("Split of old", "Split", ((2, 7),), {"axis": 1, "split": [3, 4]}, ("a", "b"), opset=11),
    Case("Slice", "Slice", ((4, 9), ints(2), ints(7), ints(1))),
    Case("Slice from behind", "Slice", ((4, 9), ints(-5, 1), ints(-2, 3), ints(1, 0))),
    Case("Slice to the end", "Slice", ((4, 9), ints(-5), ints(2**62), ints(-1))),
    Case("Slice of all", "Slice", ((4, 9), ints(0), ints(9), ints(1))),
    Case("Slice of the last", "Slice", ((4, 9), ints(-1), ints(2**62), ints(1))),
    Case("Slice by steps", "Slice", ((4, 8), ints(1), ints(8), ints(1), ints(2))),
    Case("Slice backwards", "Slice", ((4, 8), ints(-1), ints(-99), ints(1), ints(-1))),
    Case("Slice of old", "Slice", ((4, 9),), {"starts": [2], "ends": [7], "axes": [1]}, opset=9),
    Case("Pad", "Pad", ((2, 3, 5), ints(0, 1, 0, 0, 2, 3))),
    Case("Pad of axes", "Pad", ((2, 3, 5), ints(1, 2), None, ints(1))),
    Case("Pad reflecting", "Pad", ((2, 3, 5), ints(0, 0, 2, 0, 0, 1)), {"mode": "reflect"}),
    Case("Pad of old", "Pad", ((2, 3, 5),), {"pads": [0, 1, 0, 0, 2, 3]}, opset=9, runtime=True),
    # products of axes
    Case("Reshape", "Reshape", ((2, 12, 5), ints(0, 3, 4, -1))),
    Case("Reshape merging", "Reshape", ((2, 3, 4, 5), ints(0, -1, 5))),
    Case("Flatten", "Flatten", ((2, 3, 4, 5),), {"axis": 2}),
    Case("Squeeze", "Squeeze", ((2, 1, 5), ints(1))),
    Case("Squeeze of old", "Squeeze", ((2, 1, 5),), {"axes": [1]}, opset=11, runtime=True),
    Case("Unsqueeze", "Unsqueeze", ((2, 5), ints(1, -1))),
    Case("Transpose", "Transpose", ((2, 3, 5),), {"perm": [1, 2, 0]}),
    Case("Transpose reversed", "Transpose", ((2, 3, 5),)),
    Case("Expand", "Expand", ((3, 1), ints(2, 1, 5))),
    Case("Expand no further", "Expand", ((2, 3, 5), ints(1, 1))),
    Case("Tile", "Tile", ((2, 3, 5), ints(1, 2, 3))),
    # look-ups
    Case("Gather", "Gather", ((5, 3), ints(0, 3, 4)), {"axis": 0}),
    Case("Gather all", "Gather", ((4, 12), np.arange(12).reshape(3, 4)), {"axis": 1}),
    Case("Gather the first", "Gather", ((5, 3), ints(0, 1, 2))),
    Case("Gather one", "Gather", ((4, 5, 3), np.asarray(2, np.int64)), {"axis": 1}),
    Case("Gather one of a list", "Gather", ((4, 5, 3), ints(-2)), {"axis": 1}),
    Case("GatherElements", "GatherElements", ((3, 4), np.zeros((3, 2), np.int64)), {"axis": 1}),
    Case("GatherND", "GatherND", ((3, 4, 5), np.array([[0, 1], [2, 3]]))),
    Case("GatherND of batches", "GatherND", ((2, 4, 5), np.array([[1], [3]])), {"batch_dims": 1}),
    Case("ScatterElements", "ScatterElements", ((3, 4), np.zeros((3, 2), np.int64), (3, 2)),
         {"axis": 1}),
    Case("ScatterND", "ScatterND", ((4, 5, 3), np.array([[0, 1], [2, 3]]), (2, 3))),
    Case("TopK", "TopK", ((2, 5, 3), ints(2)), {"axis": 1}, ("values", "at")),
    Case("OneHot", "OneHot", (ints(0, 3, 1), ints(5), np.array([0, 1], F32)), {"axis": 0},
         runtime=True),
    Case("CumSum", "CumSum", ((2, 5), np.asarray(1, np.int64))),
    Case("Trilu", "Trilu", ((2, 4, 5),)),
    Case("ReverseSequence", "ReverseSequence", ((5, 3, 2), ints(2, 5, 3))),
    Case("ConstantOfShape", "ConstantOfShape", (ints(2, 3),)),
    # recurrent layers and attention
    *(
        Case(
            f"{name} {direction}",
            name,
            ((6, 2, 3), (d, g * 5, 3), (d, g * 5, 5), (d, 2 * g * 5), None, (d, 2, 5)),
            {"hidden_size": 5, "direction": direction},
            ("y", "last"),
            opset=17,
            runtime=True,
        )
        for name, g in (("LSTM", 4), ("GRU", 3), ("RNN", 1))
        for direction, d in (("forward", 1), ("bidirectional", 2))
    ),
    Case(
        "LSTM with peepholes",
        "LSTM",
        ((6, 2, 3), (1, 20, 3), (1, 20, 5), None, None, None, (1, 2, 5), (1, 15)),
        {"hidden_size": 5},
        ("", "", "cell"),
        opset=17,
        runtime=True,
    ),
    Case("Attention", "Attention", ((2, 4, 5, 3), (2, 2, 6, 3), (2, 2, 6, 7)), opset=23,
         runtime=True),
    Case(
        "Attention packed",
        "Attention",
        ((2, 5, 12), (2, 6, 6), (2, 6, 14)),
        {"q_num_heads": 4, "kv_num_heads": 2},
        opset=23,
        runtime=True,
    ),
    Case(
        "Attention with what was",
        "Attention",
        ((2, 5, 12), (2, 6, 6), (2, 6, 14), None, (2, 2, 4, 3), (2, 2, 4, 7)),
        {"q_num_heads": 4, "kv_num_heads": 2},
        ("y", "keys", "values"),
        opset=23,
        runtime=True,
    ),
    Case("DFT", "DFT", ((2, 5, 4, 1), None, np.asarray(1))),
    Case("DFT of old", "DFT", ((2, 5, 4, 2),), {"axis": 2}, opset=17),
    Case("DeformConv", "DeformConv", ((1, 3, 4, 6), (4, 3, 2, 2), (1, 8, 3, 5), (4,))),
    Case("DeformConv grouped", "DeformConv", ((1, 6, 4, 7), (4, 3, 2, 2), (1, 8, 3, 6)),
         {"group": 2}),
    Case("RotaryEmbedding", "RotaryEmbedding", ((2, 3, 5, 4), (2, 5, 2), (2, 5, 2)), opset=23),
    Case("RotaryEmbedding packed", "RotaryEmbedding", ((2, 5, 12), (2, 5, 2), (2, 5, 2)),
         {"num_heads": 3}, opset=23),
    Case("CenterCropPad", "CenterCropPad", ((2, 3, 7), ints(5)), {"axes": [2]}),
    Case("Col2Im", "Col2Im", ((2, 12, 16), ints(5, 6), ints(2, 3)), runtime=True),
    # quantized
    Case(
        "DequantizeLinear",
        "DequantizeLinear",
        (np.ones((4, 3), np.int8), np.array([1, 2, 3], F32), np.array([0, 1, 2], np.int8)),
        {"axis": 1},
    ),
    Case("QuantizeLinear", "QuantizeLinear", ((4, 3), np.asarray(0.1, F32)), {"axis": 1}),
    Case(
        "DynamicQuantizeLinear", "DynamicQuantizeLinear", ((4, 3),), {}, ("y", "s", "z"),
    ),
    Case(
        "ConvInteger",
        "ConvInteger",
        (np.ones((2, 3, 5, 6), np.uint8), np.ones((4, 3, 2, 2), np.int8)),
        runtime=True,
    ),
    Case(
        "QLinearConv",
        "QLinearConv",
        (np.ones((2, 3, 5, 6), np.uint8), single(0.1), np.uint8(0), np.ones((4, 3, 2, 2), np.int8),
         np.array([1, 2, 3, 4], F32), np.zeros(4, np.int8), single(0.2), np.uint8(0),
         np.ones(4, np.int32)),
        runtime=True,
    ),
    Case(
        "MatMulInteger",
        "MatMulInteger",
        (np.ones((2, 3, 5), np.uint8), np.ones((5, 4), np.int8)),
        runtime=True,
    ),
    Case(
        "QLinearMatMul",
        "QLinearMatMul",
        (np.ones((3, 5), np.uint8), single(0.1), np.uint8(0), np.ones((5, 4), np.int8),
         np.array([1, 2, 3, 4], F32), np.zeros(4, np.int8), single(0.2), np.uint8(0)),
        runtime=True,
    ),
]  # fmt: skip


@pytest.mark.parametrize("case", CASES, ids=[case.name for case in CASES])
def test_rule(case: Case) -> None:
    assert check(case) == [case.op]


def test_every_onnx_rule_has_a_case() -> None:
    tried = {case.op for case in CASES}
    untried = """
        Acos Acosh Asin Atanh Sqrt Log Not BitwiseNot Swish CastLike Mod And Or Xor BitShift
        BitwiseAnd BitwiseOr BitwiseXor Bernoulli RandomNormalLike RandomUniformLike RandomNormal
        RandomUniform Range HannWindow HammingWindow BlackmanWindow ReduceLogSum GlobalLpPool
        MaxRoiPool Scatter SwiGLU BitCast CumProd Multinomial SimplifiedLayerNormalization
    """  # alike in all that a rule tells to one that is tried, or random
    names = {name for name in known_types() if name.isidentifier()} - locked_types().keys()
    assert names - tried == set(untried.split())

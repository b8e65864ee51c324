"""Operations that stand in for those of the reference implementation compute what PyTorch does."""

from __future__ import annotations

import pytest
import torch
from onnx import TensorProto, helper

from graphprune.frontends.onnx.execute import run_node, session


@pytest.mark.parametrize(("channels", "each", "groups"), [(6, 4, 2), (6, 1, 6), (4, 2, 1)])
@pytest.mark.parametrize("bias", [False, True])
def test_transposed_convolutions_in_groups(
    channels: int, each: int, groups: int, bias: bool
) -> None:
    torch.manual_seed(0)
    x, weight = torch.randn(2, channels, 5, 4).double(), torch.randn(channels, each, 3, 2).double()
    b = torch.randn(each * groups).double() if bias else None
    node = helper.make_node(
        "ConvTranspose", ["x", "w", "b"][: 2 + bias], ["y"], strides=[2, 1], pads=[1, 0, 1, 0],
        group=groups,
    )  # fmt: skip
    feeds = {"x": x.numpy(), "w": weight.numpy(), **({"b": b.numpy()} if b is not None else {})}
    (found,) = run_node(node, {"": 17}, feeds, torch.float64)
    wanted = torch.nn.functional.conv_transpose2d(x, weight, b, (2, 1), (1, 0), groups=groups)
    torch.testing.assert_close(torch.as_tensor(found), wanted)


def test_threads_of_the_many_sessions_do_not_spin() -> None:
    value = helper.make_tensor_value_info
    graph = helper.make_graph(
        [helper.make_node("Relu", ["x"], ["y"])],
        "one",
        [value("x", TensorProto.FLOAT, [2])],
        [value("y", TensorProto.FLOAT, [2])],
    )
    made = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=9)
    options = session(made.SerializeToString()).get_session_options()
    assert options.get_session_config_entry("session.intra_op.allow_spinning") == "0"

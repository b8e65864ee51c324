"""reference: operations that the reference implementation of ONNX gets wrong, or lacks.

A transposed convolution in groups: onnx 1.23 slices its weights by outputs where they lie by
channels, gives every group the whole bias, and keeps one output of each. `DequantizeLinear` it has
from opset 19 on alone, as with other operations of which an earlier version is not there.
"""

from __future__ import annotations

from functools import partial
from typing import Any

import numpy as np
from onnx.reference.op_run import OpRun
from onnx.reference.ops.op_conv_transpose import ConvTranspose as Plain
from onnx.reference.ops.op_dequantize_linear import DequantizeLinear_25 as Newest


class ConvTranspose(Plain):
    """A transposed convolution: that of each group by itself."""

    op_domain = ""

    def _run(self, *given: Any, **attributes: Any) -> tuple[Any]:
        x, weight, *bias = given
        groups = attributes.pop("group", None) or 1
        each: Any = partial(super()._run, group=1, **attributes)
        pairs = zip(np.split(x, groups, 1), np.split(weight, groups, 0), strict=True)
        found = np.concatenate([each(part, own)[0] for part, own in pairs], 1)
        if bias and bias[0] is not None:
            found = found + bias[0].reshape(1, -1, *[1] * (found.ndim - 2))
        return (found.astype(x.dtype),)


class DequantizeLinear(Newest):
    """What integers stand for, of any opset: what later ones added has a default."""

    op_domain = ""


REPAIRED: list[type[OpRun]] = [ConvTranspose, DequantizeLinear]
"""What stands in for operations of the reference."""

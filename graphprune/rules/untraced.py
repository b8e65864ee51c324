"""Operations that are known and locked on purpose, whatever their operands."""

from __future__ import annotations

from graphprune.rules.registry import locked

_BACKWARD = """
    _adaptive_avg_pool2d_backward avg_pool2d_backward convolution_backward
    embedding_dense_backward max_pool2d_with_indices_backward native_group_norm_backward
    native_layer_norm_backward
"""
_COUNTED = """
    nonzero nonzero_static masked_select bincount _unique2 unique_consecutive unique_dim
    unique_dim_consecutive
"""

locked(
    "a gradient, which a forward pass does not compute",
    *(f"aten.{name}" for name in _BACKWARD.split()),
    *(
        f"torchvision._{name}_backward"
        for name in ("deform_conv2d", "ps_roi_align", "ps_roi_pool", "roi_align", "roi_pool")
    ),
)
locked(
    "how many results there are depends on the data",
    *(f"aten.{name}" for name in _COUNTED.split()),
    "torchvision.nms",
)
locked("a tensor read as a number", "aten._local_scalar_dense", "aten.item")
locked(
    "a number of the memory's layout, no tensor",
    *(
        f"aten.sym_{name}"
        for name in ("is_contiguous", "numel", "size", "storage_offset", "stride")
    ),
)
locked("positions counted over the whole tensor", "aten.put")
locked("written to by strides", "aten.as_strided_scatter")
locked("a diagonal written to", "aten.diagonal_scatter")
locked("blocks along a diagonal", "aten.block_diag")
locked("segments of rows, each as long as the numbers say", "aten.segment_reduce")
locked("memory laid out anew, whatever it holds", "aten.resize")

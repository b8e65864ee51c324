"""Numbers that stand for the results of operations that no engine runs."""

from __future__ import annotations

from collections.abc import Sequence
from zlib import crc32

import torch

from graphprune.core.cuts import Cuts
from graphprune.core.graph import Op, Value
from graphprune.engine.run import Granted
from graphprune.engine.tensors import as_dtype, cut_tensor


def stand_in(name: str, shape: Sequence[int], dtype: str) -> torch.Tensor:
    """Numbers of a shape, the same for the same name: normal ones, zeros where not of floats.

    Args:
        name: Of the value that they stand for.
        shape: Its shape.
        dtype: Its element type, as `Value` names it.
    """
    kind = getattr(torch, dtype, None)
    if not isinstance(kind, torch.dtype) or not kind.is_floating_point:
        return torch.zeros(list(shape), dtype=kind if isinstance(kind, torch.dtype) else None)
    generator = torch.Generator().manual_seed(crc32(name.encode()))
    return torch.randn(list(shape), generator=generator, dtype=torch.float32).to(kind)


def granted(dtype: torch.dtype, cuts: Cuts | None = None) -> Granted:
    """What a run takes for the results of operations that its engine lacks.

    Args:
        dtype: The precision of the run.
        cuts: Of a narrowed graph: its results are those of the original one, cut.
    """

    def results(op: Op) -> list[torch.Tensor]:
        return [as_dtype(_cut(value, cuts), dtype) for value in op.outputs]

    return results


def _cut(value: Value, cuts: Cuts | None) -> torch.Tensor:
    whole = stand_in(value.name, value.shape, value.dtype)
    return whole if cuts is None else cut_tensor(whole, cuts.kept(value))

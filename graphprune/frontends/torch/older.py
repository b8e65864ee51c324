"""What PyTorch, or an earlier release of it, gets wrong during a capture."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import wraps
from typing import Any

import torch
from torch import Tensor
from torch._decomp import decompositions
from torch.overrides import TorchFunctionMode
from torch.torch_version import TorchVersion

_LSTM = ("one_layer_lstm", "mkldnn_one_layer_lstm")
_DATA = Tensor.data.__get__  # type: ignore[attr-defined]


@contextmanager
def mended() -> Iterator[None]:
    """Trace `x.data` and `copy.copy(x)`, and give final states of an LSTM the right dimensions."""
    with _flat_states(), _Detached(), copied():
        yield


@contextmanager
def copied() -> Iterator[None]:
    """Let `copy.copy` of a tensor be what it is, the same numbers without their history.

    It goes through what pickles a tensor, which a tensor without values refuses.
    """
    if hasattr(Tensor, "__copy__"):
        yield
        return
    Tensor.__copy__ = Tensor.detach  # type: ignore[attr-defined]
    try:
        yield
    finally:
        del Tensor.__copy__  # type: ignore[attr-defined]


class _Detached(TorchFunctionMode):
    """Reads `x.data` as `x.detach()`: torch.export takes the former for a constant."""

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if func == _DATA:
            return args[0].detach()
        return func(*args, **(kwargs or {}))


@contextmanager
def _flat_states() -> Iterator[None]:
    """Final states of an LSTM with the right number of dimensions.

    Releases up to 2.9 at least give those of more than one sequence a dimension too many in an
    exported graph (2.14 does not), so that what reads them does not fit.
    """
    if TorchVersion(torch.__version__) >= "2.14":
        yield
        return
    known = {name: getattr(decompositions, name) for name in _LSTM}
    try:
        for name, function in known.items():
            setattr(decompositions, name, _with_flat_states(function))
        yield
    finally:
        for name, function in known.items():
            setattr(decompositions, name, function)


def _with_flat_states(layer: Callable[..., Any]) -> Callable[..., Any]:
    """The states of one layer are (sequences, hidden)."""

    @wraps(layer)
    def call(*args: Any, **kwargs: Any) -> tuple[Tensor, tuple[Tensor, ...]]:
        output, states = layer(*args, **kwargs)
        return output, tuple(x.squeeze(0) if x.dim() == 3 else x for x in states)

    return call

"""What PyTorch, or an earlier release of it, gets wrong or looks at during a capture."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import wraps
from importlib import import_module
from typing import Any

import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode
from torch.torch_version import TorchVersion

from graphprune.frontends.torch.vmapped import one_by_one

_LSTM = ("one_layer_lstm", "mkldnn_one_layer_lstm")
_DATA = Tensor.data.__get__  # type: ignore[attr-defined]


@contextmanager
def mended() -> Iterator[None]:
    """Trace `x.data` and `copy.copy(x)`, and give final states of an LSTM the right dimensions."""
    with _flat_states(), _listed_weights(), _Detached(), copied(), one_by_one(), unchecked():
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


@contextmanager
def unchecked() -> Iterator[None]:
    """Let distributions take their parameters as they are: what checks them looks at values."""
    kind = torch.distributions.Distribution
    before = kind._validate_args
    kind.set_default_validate_args(False)
    try:
        yield
    finally:
        kind.set_default_validate_args(before)


@contextmanager
def exporting() -> Iterator[None]:
    """Let Python code take the branches that it takes while torch.export traces it."""
    flags = ("_is_compiling_flag", "_is_exporting_flag")
    saved = {name: getattr(torch.compiler, name) for name in flags}
    try:
        for name in flags:
            setattr(torch.compiler, name, True)
        with copied(), one_by_one(), unchecked():
            yield
    finally:
        for name, held in saved.items():
            setattr(torch.compiler, name, held)


@contextmanager
def plain_kernels() -> Iterator[None]:
    """Without what torch.export leaves out, libraries and caches: some arguments tell of them."""
    backends = (torch.backends.mkldnn, torch.backends.nnpack, torch.backends.cudnn)
    before = [(backend, backend.set_flags(False)) for backend in backends]
    cached = torch.is_autocast_cache_enabled()
    torch.set_autocast_cache_enabled(False)
    try:
        yield
    finally:
        torch.set_autocast_cache_enabled(cached)
        for backend, given in before:
            backend.set_flags(*given)


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
    decompositions = import_module("torch._decomp.decompositions")
    known = {name: getattr(decompositions, name) for name in _LSTM}
    try:
        for name, function in known.items():
            setattr(decompositions, name, _with_flat_states(function))
        yield
    finally:
        for name, function in known.items():
            setattr(decompositions, name, function)


@contextmanager
def _listed_weights() -> Iterator[None]:
    """Let a recurrent layer list its weights anew while it is exported by itself.

    It keeps them in a list beside, which follows whatever takes their place. Release 2.7 calls that
    a tensor that the code keeps, and refuses (2.14 does not).
    """
    if TorchVersion(torch.__version__) >= "2.14":
        yield
        return
    # Imported once it is needed: they bring all of torch.compile along.
    places: list[Any] = [
        import_module(f"torch.{name}") for name in ("export._trace", "_functorch.aot_autograd")
    ]
    watch = places[0]._detect_attribute_assignment

    @contextmanager
    def spared(module: nn.Module) -> Iterator[None]:
        listed = module.__dict__.get("_flat_weights")
        before = list(listed or ())
        with watch(module):
            try:
                yield
            finally:
                if listed is not None:
                    module.__dict__["_flat_weights"] = before

    for place in places:
        place._detect_attribute_assignment = spared
    try:
        yield
    finally:
        for place in places:
            place._detect_attribute_assignment = watch


def _with_flat_states(layer: Callable[..., Any]) -> Callable[..., Any]:
    """The states of one layer are (sequences, hidden)."""

    @wraps(layer)
    def call(*args: Any, **kwargs: Any) -> tuple[Tensor, tuple[Tensor, ...]]:
        output, states = layer(*args, **kwargs)
        return output, tuple(x.squeeze(0) if x.dim() == 3 else x for x in states)

    return call


@contextmanager
def empty_last(model: nn.Module) -> Iterator[None]:
    """Let buffers that hold nothing come after the others.

    torch.export counts them where it looks for the buffers that code assigns to, and takes those
    after them for one another.
    """
    held = dict(model._buffers)
    model._buffers.clear()
    model._buffers.update(sorted(held.items(), key=lambda item: item[1] is None))
    try:
        yield
    finally:
        now = dict(model._buffers)
        model._buffers.clear()
        model._buffers.update({name: now.pop(name) for name in held if name in now} | now)

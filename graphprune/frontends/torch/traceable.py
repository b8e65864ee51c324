"""traceable: what of a module its tracing follows, and what it leaves to torch.export."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import cache
from typing import Any

import torch
from torch import Tensor, fx, nn
from torch.utils import _pytree as pytree

from graphprune.core.program import Inputs
from graphprune.frontends.torch.forms import META

PLAIN = (int, float, bool, str, complex, type(None))
"""What inputs and results may be beside tensors."""

_INDEX, _DETACHED = torch.ops.aten.index.Tensor, torch.ops.aten.detach_.default
# Questions for values and storage, which tensors without any cannot answer.
_REFUSED = frozenset(
    [
        *(Tensor.type, Tensor.get_device, Tensor.data_ptr, Tensor.data.__set__),  # type: ignore[attr-defined]
        *(Tensor.item, Tensor.tolist, Tensor.numpy, Tensor.__array__, Tensor.__contains__),
        *(Tensor.__bool__, Tensor.__int__, Tensor.__float__, Tensor.__index__),
        *(Tensor.untyped_storage, Tensor.storage, Tensor.__dlpack__, Tensor.__reduce_ex__),
        *(Tensor.__deepcopy__, Tensor.set_, Tensor.resize_),
    ]
)
_ELSEWHERE = ("torch._functorch", "torch.distributed")
_TAGS = frozenset(
    [torch.Tag.data_dependent_output, torch.Tag.dynamic_output_shape, torch.Tag.inplace_view]
)


class NotFollowedError(Exception):
    """A module has to be exported."""


def refuses_function(func: Any, args: Any) -> bool:
    """Whether a function asks what tensors without values cannot answer."""
    if func in _REFUSED or (getattr(func, "__module__", None) or "").startswith(_ELSEWHERE):
        return True
    return func is Tensor.__getitem__ and _by_tensors(args[1])


def refuses_operation(func: Any, args: Any) -> bool:
    """Whether what an operation gives depends on values."""
    return not _TAGS.isdisjoint(func.tags) and not _harmless(func, args)


def module_paths(model: nn.Module) -> dict[nn.Module, str]:
    """The path of each module."""
    found: dict[nn.Module, str] = {}
    for path, module in model.named_modules(remove_duplicate=False):
        if module in found:
            raise NotFollowedError(f"{path} is {found[module]} as well")
        scripted = isinstance(module, fx.GraphModule | torch.jit.ScriptModule)
        if scripted or type(module).__name__ == "OptimizedModule":
            raise NotFollowedError(f"{path or 'the model'} is a {type(module).__name__}")
        found[module] = path
    return found


def one_device(weights: Sequence[Tensor], inputs: Inputs) -> torch.device:
    """Where all tensors lie."""
    if any(torch.is_autocast_enabled(kind) for kind in ("cpu", "cuda")):
        raise NotFollowedError("it runs in another precision")
    leaves = pytree.tree_leaves(inputs)
    given = [leaf for leaf in leaves if isinstance(leaf, Tensor)]
    if not all(isinstance(leaf, (Tensor, *PLAIN)) for leaf in leaves):
        raise NotFollowedError("an input is no tensor")
    if {id(x) for x in weights} & {id(x) for x in given}:
        raise NotFollowedError("an input is a weight")
    if not all(is_plain(x, Tensor, nn.Parameter) for x in [*weights, *given]):
        raise NotFollowedError("a tensor is of a kind of its own")
    devices = {x.device for x in [*weights, *given]}
    if len(devices) != 1 or META in devices:
        raise NotFollowedError(f"tensors on {len(devices)} devices")
    return devices.pop()


def is_plain(tensor: Tensor, *kinds: type[Tensor]) -> bool:
    """Whether a tensor is of one of some classes, and a piece of memory as it stands there."""
    strided = type(tensor) in kinds and tensor.layout is torch.strided
    return strided and not (tensor.is_quantized or tensor.is_conj() or tensor.is_neg())


def _harmless(func: Any, args: Any) -> bool:
    """Whether an operation whose results may depend on values does not do so here."""
    if func is _INDEX:
        return all(x is None or x.dtype not in (torch.bool, torch.uint8) for x in args[1])
    return func is _DETACHED


def _by_tensors(index: Any) -> bool:
    """Whether a tensor is an index, which becomes a number when a module is exported."""
    for item in index if isinstance(index, tuple) else (index,):
        for part in (item.start, item.stop, item.step) if isinstance(item, slice) else (item,):
            if isinstance(part, Tensor) and not part.dim() and not part.is_floating_point():
                return True
    return False


@cache
def is_placed(func: Any) -> bool:
    """Whether an operation may be told on which device its result shall lie."""
    return any(a.name == "device" for a in func._schema.arguments)


@cache
def is_source(func: Any) -> bool:
    """Whether an operation makes a tensor of no other."""
    return is_placed(func) and not any("Tensor" in str(a.type) for a in func._schema.arguments)


def attributes(paths: Mapping[nn.Module, str]) -> dict[int, str]:
    """Names of the tensors that modules hold as plain attributes, by identity."""
    found: dict[int, str] = {}
    for module, path in paths.items():
        for name, held in module.__dict__.items():
            if isinstance(held, Tensor):
                found.setdefault(id(held), f"{path}.{name}".removeprefix("."))
    return found

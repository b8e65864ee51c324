"""Example inputs as plain data: they travel with a plan.

Tensors become their shape and type, and integers their values where they are few: lengths,
offsets and masks are no numbers that could be drawn. Other values stay as they are. Tuples, lists,
dicts and named tuples are written out; what else PyTorch's pytrees know (caches, data classes that
are registered) is written in its own notation.
"""

from __future__ import annotations

import importlib
from collections import namedtuple
from collections.abc import Mapping
from typing import Any

import torch
from torch.utils import _pytree as pytree

from graphprune.core.errors import GraphPruneError
from graphprune.core.program import Inputs

_FEW = 4096  # integers that are written out; a file of more would be mostly these


def describe(inputs: Inputs) -> Any:
    """Example inputs as plain data.

    Raises:
        GraphPruneError: They hold what has no plain form; names its type.
    """
    return _written(inputs)


def restore(data: Any) -> Inputs:
    """Example inputs of the described shapes and types."""
    args, kwargs = _read(data, torch.Generator().manual_seed(0))
    return tuple(args), dict(kwargs)


def _written(x: Any) -> Any:
    if isinstance(x, torch.Tensor):
        return _described(x)
    if x is None or isinstance(x, int | float | str | bool):
        return {"value": x}
    if isinstance(x, tuple) and hasattr(x, "_fields"):
        where = {"module": type(x).__module__, "name": type(x).__qualname__}
        return {"named": where, "fields": list(x._fields), "items": [_written(item) for item in x]}
    if type(x) in (tuple, list):
        return {type(x).__name__: [_written(item) for item in x]}
    if type(x) is dict and all(isinstance(name, str) for name in x):
        return {"dict": {name: _written(item) for name, item in x.items()}}
    try:
        leaves, spec = pytree.tree_flatten(x)
        if not spec.is_leaf():
            return {"spec": pytree.treespec_dumps(spec), "leaves": [_written(y) for y in leaves]}
    except NotImplementedError:  # a container without a notation of its own
        pass
    raise GraphPruneError(
        f"example inputs with a {type(x).__name__} cannot be saved with a plan: set plan.inputs = "
        "None, and give example inputs by the model or the data when it is applied"
    )


def _described(x: torch.Tensor) -> dict[str, Any]:
    counted = not (x.is_floating_point() or x.is_complex())
    node: dict[str, Any] = {"shape": list(x.shape), "dtype": str(x.dtype).removeprefix("torch.")}
    node["high"] = int(x.max()) + 1 if counted and x.numel() else None
    if counted and x.numel() <= _FEW:
        node["values"] = x.flatten().tolist()
    return node


def _read(node: Mapping[str, Any], generator: torch.Generator) -> Any:
    def several(items: Any) -> list[Any]:
        return [_read(item, generator) for item in items]

    if "value" in node:
        return node["value"]
    if "named" in node:
        return _named(node)(*several(node["items"]))
    if "tuple" in node:
        return tuple(several(node["tuple"]))
    if "list" in node:
        return several(node["list"])
    if "dict" in node:
        return {name: _read(item, generator) for name, item in node["dict"].items()}
    if "spec" in node:
        return pytree.tree_unflatten(several(node["leaves"]), pytree.treespec_loads(node["spec"]))
    dtype: torch.dtype = getattr(torch, node["dtype"])
    if dtype.is_floating_point or dtype.is_complex:
        return torch.randn(node["shape"], generator=generator).to(dtype)
    if "values" in node:
        return torch.tensor(node["values"], dtype=dtype).reshape(node["shape"])
    high = max(node["high"] or 2, 1)
    return torch.randint(0, high, node["shape"], generator=generator).to(dtype)


def _named(node: Mapping[str, Any]) -> Any:
    """The class of a named tuple, or one like it where its module is not at hand."""
    name, fields = node["named"]["name"], node["fields"]
    try:
        found = getattr(importlib.import_module(node["named"]["module"]), name)
        if tuple(found._fields) == tuple(fields):
            return found
    except (ImportError, AttributeError):
        pass
    return namedtuple(name.rpartition(".")[2], fields)

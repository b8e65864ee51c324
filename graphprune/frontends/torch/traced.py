"""traced: the calls of a module as a graph, under the names that torch.export gives them."""

from __future__ import annotations

import inspect
import re
from collections import defaultdict
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import fx, nn
from torch.utils import _pytree as pytree

from graphprune.core.graph import Kind
from graphprune.core.program import Inputs

AUTOCAST = "autocast"
"""Where a node's `meta` holds the arguments of the `torch.autocast` that it runs in."""
GRADIENTS = "gradients"
"""Where a recorded node's `meta` holds whether it ran with gradients switched on."""
AUTOCAST_ARGUMENTS = ("device_type", "dtype", "enabled", "cache_enabled")

_NUMBERED = re.compile(r"(.*)_(\d+)")
_PREFIXES: Mapping[Kind, str] = {"parameter": "p_", "buffer": "b_", "constant": "c_"}


@dataclass
class Trace:
    """The calls of a module.

    Attributes:
        graph: Placeholders of the weights and the inputs, calls, and what is returned.
        places: For each placeholder of a stored tensor what kind it is of, and its name.
        tensors: Stored tensors by name, beside those of the module.
        keeps: Whether code leaves tensors on modules: as attributes, in lists or dictionaries.
    """

    graph: fx.Graph
    places: dict[str, tuple[Kind, str]] = field(default_factory=dict)
    tensors: dict[str, torch.Tensor] = field(default_factory=dict)
    keeps: bool = False


def rename(
    trace: Trace, stored: Mapping[fx.Node, tuple[Kind, str]], inputs: Mapping[fx.Node, str]
) -> None:
    """Give the nodes of a trace their names.

    Args:
        trace: The trace, whose nodes and places are changed.
        stored: What each placeholder of a stored tensor stands for.
        inputs: What each placeholder of an input is called.
    """
    names = _Names()
    for node, name in inputs.items():
        node.name = names.place(name)
    for node, (kind, name) in stored.items():
        node.name = names.place(_PREFIXES[kind] + spelled(name))
        trace.places[node.name] = kind, name
    for node in trace.graph.nodes:
        if node.op != "placeholder":
            node.name = names.call(node.name)


class _Names:
    def __init__(self) -> None:
        self._used: set[str] = set()
        self._highest: dict[str, int] = defaultdict(int)

    def place(self, name: str) -> str:
        """A name of a placeholder."""
        return self._new(name, name)

    def call(self, name: str) -> str:
        """A name of a call, which gives way to those of placeholders."""
        found = _NUMBERED.match(name)
        return self._new(name, found.group(1) if found else name)

    def _new(self, name: str, stem: str) -> str:
        if name in self._used:
            name = f"{stem}_{self._highest[stem] + 1}"
        found = _NUMBERED.match(name)
        if found:
            stem, number = found.group(1), int(found.group(2))
            self._highest[stem] = max(self._highest[stem], number)
        self._used.add(name)
        return name


def spelled(name: str) -> str:
    """The name of a stored tensor as a part of a placeholder's."""
    name = name.removeprefix("L__self___").removeprefix("self_")
    return re.sub(r"[^a-zA-Z0-9]", "_", name).lower()


def input_names(model: nn.Module, inputs: Inputs) -> Iterator[str]:
    """What the tensors among a module's inputs are called, by its `forward` and where they lie."""
    args, kwargs = inputs
    bound = inspect.signature(model.forward).bind_partial(*args).arguments
    leaves, _ = pytree.tree_flatten_with_path({**bound, **kwargs})
    for path, leaf in leaves:
        if isinstance(leaf, torch.Tensor):
            yield "_".join(_step(key).lower() for key in path)


def _step(key: Any) -> str:
    if isinstance(key, pytree.MappingKey):
        return re.sub(r"[^a-zA-Z0-9]", "_", str(key.key))
    return str(key.idx) if isinstance(key, pytree.SequenceKey) else str(key.name)

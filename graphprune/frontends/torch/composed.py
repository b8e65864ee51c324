"""composed: operations that PyTorch makes of others, taken apart where no rule knows them.

`torch.hsplit` is `tensor_split`, `torch.linalg.multi_dot` is products of two matrices: PyTorch says
so itself (kernels of `CompositeImplicitAutograd`). In the place of such a call, a graph gets the
calls that it makes.
"""

from __future__ import annotations

import operator
from collections.abc import Mapping
from typing import Any

import torch
from torch import fx
from torch.fx.experimental.proxy_tensor import make_fx
from torch.utils import _pytree as pytree

from graphprune.frontends.torch.forms import blank
from graphprune.frontends.torch.reader import type_of
from graphprune.rules.registry import is_known


def take_apart(graph: fx.Graph, device: torch.device | None = None) -> None:
    """Put calls that operations without a rule make in their place.

    What cannot be taken apart without the values of tensors stays.

    Args:
        graph: A captured graph, whose nodes tell in `meta["val"]` what they give; changed.
        device: Where the tensors would lie; None where `meta["val"]` tells that, too.
    """
    for node in [node for node in graph.nodes if _is_composed(node)]:
        try:
            parts = _parts(node)
        except Exception:  # whatever PyTorch raises on tensors without values
            continue
        _replace(graph, node, parts, device or _device(node))


def _is_composed(node: fx.Node) -> bool:
    target = node.target
    if node.op != "call_function" or not isinstance(target, torch._ops.OpOverload):
        return False
    return not is_known(type_of(node)) and target._can_decompose()


def _parts(node: fx.Node) -> fx.Graph:
    """The calls that an operation makes of its operands, of which the graph has a place each."""
    read = node.all_input_nodes
    target: Any = node.target

    def run(*given: torch.Tensor) -> Any:
        tensors = dict(zip(read, given, strict=True))
        args, kwargs = fx.node.map_arg((node.args, node.kwargs), tensors.__getitem__)
        return target.decompose(*args, **kwargs)

    found = make_fx(run)(*(blank(other.meta["val"]) for other in read)).graph
    if any(inner.op == "get_attr" for inner in found.nodes):
        raise NotImplementedError("it holds tensors of its own")
    vals = {
        inner: blank(other.meta["val"])
        for inner, other in zip(found.find_nodes(op="placeholder"), read, strict=True)
    }
    for inner in found.nodes:
        if inner.op == "call_function":
            vals[inner] = _given_by(inner, vals)
            # Of its own: what is written in place gets other sizes.
            inner.meta["val"] = pytree.tree_map_only(torch.Tensor, blank, vals[inner])
    return found


def _device(node: fx.Node) -> torch.device | None:
    """Where the tensors lie that a call reads; None where it reads none."""
    return next((other.meta["val"].device for other in node.all_input_nodes), None)


def _replace(graph: fx.Graph, node: fx.Node, parts: fx.Graph, device: torch.device | None) -> None:
    """Put calls in the place of one, with the tensors that they make on a device."""

    def on_device(given: Any) -> Any:
        return device if device and isinstance(given, torch.device) else given

    read = iter(node.all_input_nodes)
    held: dict[fx.Node, fx.Node] = {}
    for inner in parts.nodes:
        if inner.op == "placeholder":
            held[inner] = next(read)
        elif inner.op == "call_function":
            with graph.inserting_before(node):
                new = graph.node_copy(inner, held.__getitem__)
            new.args, new.kwargs = fx.node.map_aggregate((new.args, new.kwargs), on_device)
            new.meta = {**node.meta, "val": inner.meta["val"]}
            held[inner] = new
    (result,) = (inner.args[0] for inner in parts.nodes if inner.op == "output")
    _hand_on(graph, node, fx.node.map_arg(result, held.__getitem__))


def _given_by(node: fx.Node, vals: Mapping[fx.Node, Any]) -> Any:
    """What a call gives, without values."""
    target: Any = node.target
    args, kwargs = fx.node.map_arg((node.args, node.kwargs), vals.__getitem__)
    with torch.no_grad():
        return target(*args, **kwargs)


def _hand_on(graph: fx.Graph, node: fx.Node, result: Any) -> None:
    """Let who reads an operation's result read what stands for it, and drop the operation."""
    if isinstance(result, fx.Node):
        node.replace_all_uses_with(result)
    else:
        for user in list(node.users):
            assert user.target is operator.getitem, user
            user.replace_all_uses_with(result[user.args[1]])
            graph.erase_node(user)
    graph.erase_node(node)

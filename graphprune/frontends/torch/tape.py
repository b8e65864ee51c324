"""tape: the calls of a module that is traced, noted as a graph."""

from __future__ import annotations

import operator
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any, NoReturn

import torch
from torch import Tensor, fx, nn

from graphprune.core.graph import Kind
from graphprune.core.program import Inputs
from graphprune.frontends.torch.traceable import (
    NotFollowedError,
    attributes,
    is_placed,
    is_plain,
)
from graphprune.frontends.torch.traced import (
    AUTOCAST,
    GRADIENTS,
    Trace,
    input_names,
    rename,
    spelled,
)

DETACH = torch.ops.aten.detach.default
"""What ends the way of gradients."""


class Tape:
    """Notes calls.

    Attributes:
        device: Where tensors would lie.
        path: The module that runs.
        function: The function that runs.
        counts: How often each function was called.
        regions: Arguments of the regions of a precision of their own that it is in.
        refused: Why the module has to be exported, once that is known.
    """

    def __init__(self, device: torch.device) -> None:
        self.device = device
        self.path = ""
        self.function: Any = None
        self.counts: Counter[Any] = Counter()
        self.regions: list[dict[str, Any]] = []
        self.refused = ""
        self._graph = fx.Graph()
        self._known: dict[int, tuple[Tensor, fx.Node]] = {}  # held: no other gets their identity
        self._made: dict[int, tuple[Tensor, fx.Node]] = {}  # by their memory
        self._constants: dict[fx.Node, tuple[Tensor, str]] = {}
        self._places = 0
        self._with: dict[fx.Node, bool] = {}  # whether what a node gives has gradients

    def refuse(self, why: str) -> NoReturn:
        """Say that the module has to be exported, whatever its code makes of the error."""
        self.refused = self.refused or why
        raise NotFollowedError(why)

    def place(self, blank: Tensor) -> fx.Node:
        """Note a weight or an input, by the tensor without values that stands for it."""
        self._places += 1
        node = self._graph.placeholder(f"arg{self._places}_1")
        node.meta["val"] = blank
        self._known[id(blank)] = blank, node
        return node

    def same(self, tensor: Tensor, source: Tensor) -> None:
        """Let a tensor stand for what another one does."""
        self._known[id(tensor)] = tensor, self.node(source)

    @property
    def lifts(self) -> bool:
        """Whether there are tensors that come from elsewhere."""
        return bool(self._constants)

    def gradients(self, tensor: Tensor) -> bool:
        """Whether a tensor would have gradients."""
        return tensor.requires_grad or self._with.get(self.node(tensor), False)

    def noted(self, func: Any, args: Any, kwargs: Any) -> fx.Node:
        """Note a call, with nodes for operands."""
        name = self._graph._target_to_str(func.overloadpacket.__name__)
        node = self._graph.create_node("call_function", func, name=name)
        node.args = args  # given at once, they would be searched for symbolic numbers
        if kwargs:
            node.kwargs = kwargs
        self._with[node] = (
            torch.is_grad_enabled()
            and func is not DETACH
            and any(self._with.get(x) or _trains(x) for x in node.all_input_nodes)
        )
        node.meta["nn_module_stack"] = {self.path: (self.path, "")}
        node.meta[GRADIENTS] = torch.is_grad_enabled()
        if self.regions:
            node.meta[AUTOCAST] = self.regions[-1]
        if self.function is not None:
            name = self.function.__name__
            counted = f"{name}_{self.counts[self.function]}"
            node.meta["torch_fn"] = counted, f"{type(self.function).__name__}.{name}"
        return node

    def track(self, node: fx.Node, out: Any) -> None:
        """Remember what a call gave."""
        node.meta["val"] = out
        if isinstance(out, Tensor):
            self._known[id(out)] = out, node
            self._with[node] = self._with[node] and out.is_floating_point()
            if is_placed(node.target):
                self._made[out.untyped_storage()._cdata] = out, node
        elif isinstance(out, list | tuple):
            for i, item in enumerate(out):
                if isinstance(item, Tensor):
                    part = self._graph.create_node(
                        "call_function", operator.getitem, (node, i), {}, "getitem"
                    )
                    part.meta["val"] = item
                    self._with[part] = self._with[node] and item.is_floating_point()
                    self._known[id(item)] = item, part
        elif out is not None:
            self.refuse(f"{node.target} gives a number")

    # --- operands ---------------------------------------------------------------------------

    def named(self, tree: Any) -> Any:
        """Arguments with nodes in place of tensors, and the model's device."""
        if isinstance(tree, Tensor):
            return self.node(tree)
        if isinstance(tree, tuple):
            return tuple(self.named(item) for item in tree)
        if isinstance(tree, list):
            return [self.named(item) for item in tree]
        if isinstance(tree, dict):
            return {name: self.named(item) for name, item in tree.items()}
        if isinstance(tree, torch.device):
            if tree.type == "meta":
                return self.device
            if tree.type != self.device.type or tree.index not in (None, self.device.index):
                self.refuse("a tensor on another device")
        return tree

    def node(self, tensor: Tensor) -> fx.Node:
        """What gives a tensor."""
        known = self._known.get(id(tensor))
        if known is not None:
            return known[1]
        if tensor.is_meta:
            # What functions make is handed on as another object with the same memory.
            made = self._made.get(tensor.untyped_storage()._cdata)
            if made is None or (made[0].shape, made[0].stride()) != (tensor.shape, tensor.stride()):
                self.refuse("a tensor from elsewhere")
            node = made[1]
        else:  # on a module, or outside
            if not is_plain(tensor, Tensor) or tensor.requires_grad:
                self.refuse("a tensor from elsewhere")
            if tensor.device != self.device:
                self.refuse("a tensor on another device")
            node = self.constant(tensor)
        self._known[id(tensor)] = tensor, node
        return node

    def constant(self, tensor: Tensor) -> fx.Node:
        """Note a tensor that comes from elsewhere."""
        node = self._graph.create_node("get_attr", f"_tensor_constant{len(self._constants)}")
        self._constants[node] = tensor, self.path
        return node

    # --- the end ----------------------------------------------------------------------------

    def finished(
        self,
        model: nn.Module,
        inputs: Inputs,
        paths: Mapping[nn.Module, str],
        stored: dict[fx.Node, tuple[Kind, str]],
        taken: list[fx.Node],
        results: Sequence[Any],
    ) -> Trace:
        """The calls, without those of no effect, under their names.

        Args:
            model: The module.
            inputs: What it was called with.
            paths: The path of each module.
            stored: What each placeholder of a weight stands for.
            taken: The placeholders of inputs.
            results: What it returned, with tensors without values.
        """
        graph = self._graph
        graph.output([self.node(x) if isinstance(x, Tensor) else x for x in results])
        for node in reversed(list(graph.nodes)):
            if node.target is DETACH and not node.users:
                graph.erase_node(node)
        found = Trace(graph)
        names, lifted = attributes(paths), 0
        for node, (tensor, path) in self._constants.items():
            if node.users:
                name = names.get(id(tensor), "")
                if not name:
                    name = f"{path}.lifted_tensor_{lifted}".removeprefix(".")
                    lifted += 1
                with graph.inserting_before(taken[0] if taken else node):
                    place = graph.placeholder(f"c_{spelled(name)}")
                place.meta["val"] = found.tensors[name] = tensor
                stored[place] = "constant", name
                node.replace_all_uses_with(place)
            graph.erase_node(node)
        called = input_names(model, inputs)
        rename(found, stored, dict(zip(taken, called, strict=True)))
        return found


def _trains(node: fx.Node) -> bool:
    return node.op == "placeholder" and bool(node.meta["val"].requires_grad)

"""left_out: inputs that generated code does without, as the code that it stands in for does.

Code that may look at values leaves out a mask that masks nothing; while it is captured, it may not
look, and makes the mask. So the graph holds one where the module is given none later on. A mask of
zeros that is added, or of ones that choose, stands for none at all, if the module's own code
computes the same with it.
"""

from __future__ import annotations

import inspect
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn
from torch.utils import _pytree as pytree

from graphprune.core.graph import Graph, Op, Value
from graphprune.engine.copying import copied
from graphprune.engine.run import Run
from graphprune.engine.state import quiet, same_draws
from graphprune.frontends.torch.captured import CapturedModule
from graphprune.frontends.torch.execute import writes
from graphprune.frontends.torch.findings import Call
from graphprune.frontends.torch.follow import Follows
from graphprune.frontends.torch.laws import flat

_SPREAD = 0.2  # of weights drawn anew: none is without effect, and they saturate little
_RTOL, _ATOL = 1e-3, 1e-4  # single precision, of a kernel that masks and one that does not


def unmasked(
    mask: torch.Tensor | None, rank: int, like: torch.Tensor, kind: torch.dtype | None
) -> torch.Tensor:
    """A mask, or one that masks nothing where there is none.

    Args:
        mask: What the module is given.
        rank: How many dimensions it has.
        like: An input on the same device; of the same type where `kind` is None.
        kind: The mask's type, where that is not of floating point.
    """
    if mask is not None:
        return mask
    return like.new_full([1] * rank, kind is not None, dtype=kind)


def is_float(value: Value) -> bool:
    """Whether a value is of floating point."""
    return bool(getattr(torch, value.dtype).is_floating_point)


def kind_of(value: Value) -> torch.dtype | None:
    """The type of an input, None where that is of floating point."""
    return None if is_float(value) else getattr(torch, value.dtype)


@dataclass(frozen=True)
class LeftOut:
    """Tells the inputs that a module may be left without.

    Attributes:
        call: The call of the module, in terms of the graph's values.
        ops: The operations of the generated code.
        inner: Those that modules inside do, which are called.
        wanted: What the code returns.
    """

    call: Call
    ops: Sequence[Op]
    inner: Collection[Op]
    wanted: Collection[Value]

    def allows(
        self, captured: CapturedModule, path: str, name: str, value: Value, follows: Follows
    ) -> bool:
        """Whether a mask with all lengths one, that masks nothing, stands for a missing one.

        Args:
            captured: The captured model.
            path: The module's path.
            name: The input's name.
            value: What stands for it in the graph.
            follows: What the code takes from its inputs again.
        """
        return (
            not _is_measured(value, follows)
            and self._spreads(captured.graph, value)
            and self._is_neutral(captured.model.get_submodule(path), name, value)
        )

    def _spreads(self, graph: Graph, value: Value) -> bool:
        """Whether the operations make the same of an input whose lengths are all one."""
        behind, reached = list[Op](), {value}
        for op in self.ops:
            if not reached.isdisjoint(op.inputs):
                behind.append(op)
                reached.update(op.outputs)
        read = {v for op in behind for v in op.inputs if v is not None}
        given = {v: _empty(v, v.shape) for v in read - reached}
        given[value] = _empty(value, [1] * len(value.shape))
        run = Run(graph, lambda weight: _empty(weight, weight.shape), [given], ops=behind)

        def is_thin(held: Value | None) -> bool:
            found = None if held is None or held.is_weight else run.known(held)
            return found is not None and held is not None and found.shape != held.shape

        try:
            for op in run.steps():
                if any(map(is_thin, op.inputs)) and (op in self.inner or writes(op)):
                    return False
                if any(is_thin(result) for result in op.outputs if result in self.wanted):
                    return False
        except Exception:  # it names a length that is not there
            return False
        return True

    def _is_neutral(self, module: nn.Module, name: str, value: Value) -> bool:
        """Whether the module's own code computes the same without the input.

        Weights and other inputs are drawn anew, so that none of them hides what the input does.
        """
        try:
            with quiet(), torch.no_grad(), same_draws():
                torch.manual_seed(0)
                module = copied(module).eval()
                for parameter in filter(torch.is_floating_point, module.parameters()):
                    parameter.normal_(0, _SPREAD)
                device = next((x.device for x in module.parameters()), None)
                inputs = pytree.tree_map_only(Value, lambda v: _drawn(v, device), self.call.args)
                bound = inspect.signature(module.forward).bind(*inputs[0], **inputs[1])
                full = _empty(value, value.shape, device).fill_(not is_float(value))
                without, masked = (_results(module, bound, {name: x}) for x in (None, full))
        except Exception:  # whatever the caller's code raises
            return False
        return len(without) == len(masked) and all(
            a.shape == b.shape and torch.allclose(a, b, _RTOL, _ATOL)
            for a, b in zip(without, masked, strict=True)
        )


def _is_measured(value: Value, follows: Follows) -> bool:
    """Whether generated code takes a size from an input."""
    laws = [law for found in follows.lengths.values() for law in found.values()]
    return any(one.value is value for law in laws for one in flat(law))


def _results(
    module: nn.Module, bound: inspect.BoundArguments, given: Mapping[str, Any]
) -> list[torch.Tensor]:
    """The tensors that a module's own code returns."""
    bound.arguments.update(given)
    args, kwargs = pytree.tree_map_only(torch.Tensor, torch.clone, (bound.args, bound.kwargs))
    found = module.forward(*args, **kwargs)
    return [x for x in pytree.tree_leaves(found) if isinstance(x, torch.Tensor)]


def _drawn(value: Value, device: torch.device | None) -> torch.Tensor:
    """An input: numbers drawn, a mask of ones, indices of zero."""
    if value.is_weight:
        return value.tensor  # type: ignore[no-any-return]
    made = _empty(value, value.shape, device)
    return made.normal_() if is_float(value) else made.fill_(made.dtype is torch.bool)


def _empty(
    value: Value, shape: Sequence[int], device: torch.device | str | None = "meta"
) -> torch.Tensor:
    return torch.empty(shape, dtype=getattr(torch, value.dtype), device=device)

"""check_rule: removal must equal masking, for one function and the rules of its operations.

A tool for tests, and for whoever writes a rule with `graphprune.axis_rule`.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import nn

from graphprune.axes import Axis, atom, atoms, length
from graphprune.dependencies import Dependencies
from graphprune.errors import VerifyError
from graphprune.graph import Graph, Op, Value
from graphprune.indices import Indices
from graphprune.rules.registry import infer
from graphprune.rules.site import Dims, Effect

if TYPE_CHECKING:
    from graphprune.passes.narrow import Cuts

TOLERANCE = 1e-9


class _Wrapped(nn.Module):
    """A function as a module without parameters."""

    def __init__(self, function: Callable[..., Any]) -> None:
        super().__init__()
        self._function = function

    def forward(self, *tensors: torch.Tensor) -> Any:
        return self._function(*tensors)


def check_rule(function: Callable[..., Any], *tensors: torch.Tensor, seed: int = 0) -> set[str]:
    """Check the rules of every operation in a function.

    Indices chosen at random are removed from every axis that no rule locks, all at once. Each
    operation then runs twice in float64: whole, on operands that are zero at the removed indices,
    and narrowed, on operands without them. What is left must agree. Where an operation mixes a
    removed axis, only the shapes must.

    Args:
        function: Takes tensors, returns tensors.
        tensors: What to call it with.
        seed: Chooses the indices.

    Returns:
        The types of the operations in it.

    Raises:
        VerifyError: A rule is wrong; the message names the type of the operation, and the
            largest difference.

    Example:
        >>> sorted(check_rule(lambda x: x.relu().flatten(1), torch.randn(2, 3, 4)))
        ['aten.flatten', 'aten.relu']
    """
    from graphprune.passes.narrow import narrow

    graph = _captured(function, tensors)
    deps = _inferred(graph)
    cuts = narrow(deps, _choice(graph, deps, seed))
    whole: dict[Value, torch.Tensor] = {}
    small: dict[Value, torch.Tensor] = {}
    given = dict(zip(graph.inputs, tensors, strict=True))
    given.update({value: value.tensor for value in graph.weights.values()})
    for value, tensor in given.items():
        copied = tensor.detach().clone()
        whole[value] = copied.double() if copied.is_floating_point() else copied
        small[value] = _cut(whole[value], cuts, value)
    for op in graph.ops:
        _compare(op, cuts, whole, small)
    return {op.type for op in graph.ops}


def _captured(function: Callable[..., Any], tensors: tuple[torch.Tensor, ...]) -> Graph:
    from graphprune.frontends.reader import Reader, inline_wrappers

    module = _Wrapped(function).eval()
    exported = torch.export.export(module, tensors, strict=False)
    inline_wrappers(exported.graph_module)
    reader = Reader(module, exported)
    for node in exported.graph_module.graph.nodes:
        reader.read(node)
    return reader.graph


def _inferred(graph: Graph) -> Dependencies:
    dims: dict[Value, Dims] = {
        value: [atom(size) for size in value.shape]
        for value in [*graph.inputs, *graph.weights.values()]
    }
    effects: dict[Op, Effect] = {}
    for op in graph.ops:
        results, effects[op] = infer(op, dims)
        for number, value in enumerate(op.outputs):
            found = results[number] if number < len(results) else None
            if found is None or tuple(length(dim) for dim in found) != value.shape:
                raise _error(op, f"gives result {number} dimensions {found}, not {value.shape}")
            dims[value] = found
    return Dependencies(graph, dims, effects)


def _choice(graph: Graph, deps: Dependencies, seed: int) -> dict[Axis, Indices]:
    """A random proper subset of the indices of every axis that may lose some."""
    rng = np.random.default_rng(seed)
    keep: dict[Axis, Indices] = {}
    values = [*graph.inputs, *(value for op in graph.ops for value in [*op.inputs, *op.outputs])]
    for value in dict.fromkeys(values):
        for dim in deps.dims[value] if value is not None else ():
            for axis in atoms(dim):
                if axis.reason is None and axis.size > 1 and axis not in keep:
                    count = int(rng.integers(1, axis.size))
                    keep[axis] = np.sort(rng.choice(axis.size, count, replace=False))
    return keep


def _compare(
    op: Op, cuts: Cuts, whole: dict[Value, torch.Tensor], small: dict[Value, torch.Tensor]
) -> None:
    from graphprune.passes.verify import difference

    for value in op.inputs:
        if value is not None:
            _blank(whole, cuts, value)
    reference = _run(op, whole, {})
    try:
        results = _run(op, small, cuts.attrs.get(op, {}))
    except (RuntimeError, IndexError, ValueError) as error:
        raise _error(op, f"cannot run once narrowed: {error}") from error
    mixed = any(cuts.touches(dim) for dim in cuts.deps.effects[op].mixes)
    for value, full, cut in zip(op.outputs, reference, results, strict=True):
        whole[value], small[value] = full, cut
        expected = _cut(full, cuts, value)
        if mixed or _arbitrary(op):
            gap = 0.0 if expected.shape == cut.shape else float("inf")
            whole[value] = torch.zeros_like(full)
            if not gap:
                whole[value][_mask(cuts, value)] = cut.reshape(-1)
        else:
            gap = difference(expected, cut)
        if gap > TOLERANCE:
            shapes = f"{tuple(expected.shape)} against {tuple(cut.shape)}"
            raise _error(op, f"differs by {gap:.3g} from masking, shapes {shapes}", gap)


def _run(op: Op, env: Mapping[Value, torch.Tensor], changed: dict[str, Any]) -> list[torch.Tensor]:
    from graphprune.frontends.execute import evaluate

    operands = [None if value is None else env[value] for value in op.inputs]
    with torch.random.fork_rng(devices=[]):
        return evaluate(op, operands, changed, torch.float64)


def _arbitrary(op: Op) -> bool:
    """Whether the values of the results mean nothing: drawn at random, or uninitialised."""
    tags = getattr(op.source.target, "tags", ())
    drawn = torch.Tag.nondeterministic_seeded in tags
    evaluated = not op.attrs.get("train", op.attrs.get("training", True))
    return (drawn and not evaluated) or "empty" in op.type


def _mask(cuts: Cuts, value: Value) -> torch.Tensor:
    """True at the positions of a tensor that stay."""
    out = torch.ones((), dtype=torch.bool)
    for size, indices in zip(value.shape, cuts.kept(value), strict=True):
        stay = torch.ones(size, dtype=torch.bool)
        if indices is not None:
            stay = torch.zeros(size, dtype=torch.bool)
            stay[torch.as_tensor(indices)] = True
        out = out.unsqueeze(-1) & stay
    return out


def _blank(env: dict[Value, torch.Tensor], cuts: Cuts, value: Value) -> None:
    """Zero a tensor at its removed positions: in place, so that views of it follow."""
    gone = ~_mask(cuts, value)
    if not bool(gone.any()):
        return
    if any(
        step == 0 and size > 1 for step, size in zip(env[value].stride(), value.shape, strict=True)
    ):
        env[value] = env[value].clone(memory_format=torch.contiguous_format)
    env[value].masked_fill_(gone, 0)


def _cut(tensor: torch.Tensor, cuts: Cuts, value: Value) -> torch.Tensor:
    from graphprune.frontends.execute import cut_tensor

    return cut_tensor(tensor, cuts.kept(value)).clone()


def _error(op: Op, what: str, gap: float = float("inf")) -> VerifyError:
    return VerifyError(f"the rule of {op.type} is wrong: {op.name} {what}", op.type, gap)

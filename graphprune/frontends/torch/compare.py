"""compare: the returned module must compute what the rewritten graph computes."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping
from contextlib import suppress
from typing import Any

import torch
from torch import nn
from torch.utils import _pytree as pytree

from graphprune.core.cuts import Cuts
from graphprune.core.errors import VerifyError, first_line
from graphprune.core.graph import Value
from graphprune.core.program import Inputs
from graphprune.engine.run import LastUses, Run, final_values, given_inputs
from graphprune.engine.state import preserved, same_draws
from graphprune.engine.tensors import cut_tensor, difference
from graphprune.frontends.torch.captured import CapturedModule
from graphprune.frontends.torch.failing import failing
from graphprune.frontends.torch.findings import Findings
from graphprune.frontends.torch.fold import folded
from graphprune.frontends.torch.lowered import Lowered


def compare(captured: CapturedModule, cuts: Cuts, lowered: Lowered) -> float:
    """Run the lowered module and the rewritten graph on the example inputs.

    Gains and statistics are perturbed in both alike: a branch that starts at zero would hide a
    difference.

    Returns:
        The largest relative difference between their results.

    Raises:
        VerifyError: They differ by more than rounding, or in shape.
    """
    values = perturbed(captured, cuts)
    try:
        with same_draws():
            expected = _run(captured, cuts, values)
    except (RuntimeError, IndexError, ValueError) as error:
        why = f"the narrowed graph does not run: {first_line(error)}"
        raise VerifyError(why, "", float("inf")) from error
    model = lowered.model
    swap = swapped(model, values, lowered)
    args, kwargs = pytree.tree_map_only(torch.Tensor, torch.clone, captured.inputs)
    with preserved(model, fused=True), torch.no_grad(), same_draws():
        model.eval()
        try:
            found = torch.func.functional_call(model, swap, args, kwargs)
        except Exception as error:
            raise VerifyError(
                f"the smaller {type(model).__name__} does not run: {error}", "", float("inf")
            ) from error
    tensors = [x for x in pytree.tree_leaves(found) if isinstance(x, torch.Tensor)]
    worst = 0.0
    for value, wanted, tensor in zip(captured.graph.outputs, expected, tensors, strict=False):
        gap = difference(wanted.double(), tensor.double())
        if gap > tolerance(wanted):
            raise VerifyError(
                f"the smaller module differs from the rewritten graph at output {value.name}: "
                f"largest relative difference {gap:.3g}",
                value.name,
                gap,
            )
        worst = max(worst, gap)
    return worst


def blamed(
    captured: CapturedModule, cuts: Cuts, lowered: Lowered, original: Findings
) -> dict[str, str]:
    """The modules whose own code is to blame where a lowered module computes something else.

    What every module takes and returns is held against the rewritten graph, and put right, so that
    one module's fault does not pass for another's.

    Args:
        captured: The captured model.
        cuts: The narrowed graph.
        lowered: The smaller module.
        original: Every call of a module of the original, in terms of the graph's values.

    Returns:
        Their paths, and what is wrong.
    """
    values = perturbed(captured, cuts)
    model = lowered.model
    swap = swapped(model, values, lowered)
    watch = _Blame(original)
    with same_draws():
        _run(captured, cuts, values, watch.known)
    args, kwargs = pytree.tree_map_only(torch.Tensor, torch.clone, captured.inputs)
    with preserved(model), torch.no_grad(), same_draws(), suppress(Exception):
        model.eval()
        for path, module in list(model.named_modules()):
            module.__dict__["forward"] = watch.watched(path, module.forward)
        torch.func.functional_call(model, swap, args, kwargs)
    return watch.found


class _Blame:
    """Holds what modules take and return against what they should."""

    def __init__(self, original: Findings) -> None:
        self.found: dict[str, str] = {}
        self.known: dict[Value, list[torch.Tensor]] = {
            value: []
            for calls in original.calls.values()
            for call in calls
            for value in pytree.tree_leaves((call.args, call.result))
            if isinstance(value, Value)
        }
        self._calls = original.calls
        self._number: Counter[str] = Counter()
        self._stack: list[str] = []

    def watched(self, path: str, forward: Callable[..., Any]) -> Callable[..., Any]:
        """A module's forward, between two checks."""

        def run(*args: Any, **kwargs: Any) -> Any:
            calls, number = self._calls.get(path, []), self._number[path]
            self._number[path] += 1
            call = calls[number] if number < len(calls) else None
            if call is not None and self._stack:
                outer = self._stack[-1]
                args, kwargs = self._right((args, kwargs), call.args, outer, f"gives {path}")
            self._stack.append(path)
            try:
                result = forward(*args, **kwargs)
            except Exception as error:
                if call is None:
                    raise
                self.found.setdefault(path, failing(error))
                return pytree.tree_map_only(Value, lambda v: self.known[v][-1].clone(), call.result)
            finally:
                self._stack.pop()
            return result if call is None else self._right(result, call.result, path, "returns")

        return run

    def _right(self, given: Any, wanted: Any, path: str, does: str) -> Any:
        """What a module should give, where it gives something else."""
        leaves, spec = pytree.tree_flatten(given)
        names = pytree.tree_leaves(wanted)
        if len(names) != len(leaves):
            return given
        for i, (tensor, value) in enumerate(zip(leaves, names, strict=True)):
            if not (isinstance(tensor, torch.Tensor) and isinstance(value, Value)):
                continue
            expected = self.known[value]
            gaps = [difference(x.double(), tensor.double()) for x in expected]
            if gaps and min(gaps) > tolerance(expected[-1]):
                self.found.setdefault(path, f"{does} other values than the rewritten graph")
                leaves[i] = expected[-1].clone()
        return pytree.tree_unflatten(leaves, spec)


def check_runs(model: nn.Module, inputs: Inputs) -> None:
    """Run a smaller model as a whole, of which only parts were compared.

    Raises:
        VerifyError: It does not run: code outside the parts counts on what has shrunk.
    """
    args, kwargs = pytree.tree_map_only(torch.Tensor, torch.clone, inputs)
    with preserved(model), torch.no_grad(), same_draws():
        model.eval()
        try:
            model(*args, **kwargs)
        except Exception as error:
            raise VerifyError(
                f"the smaller {type(model).__name__}, which was captured in parts, does not run as "
                f"a whole: {error}\nPass keep=[...] with the layers named there",
                "",
                float("inf"),
            ) from error


def perturbed(captured: CapturedModule, cuts: Cuts) -> dict[Value, torch.Tensor]:
    """The narrowed weights, vectors and weights near zero moved off their start.

    What no operation reads stays: code may have made a table of it before.
    """
    out: dict[Value, torch.Tensor] = {}
    read = {value for op in captured.graph.ops for value in op.inputs}
    generator = torch.Generator().manual_seed(0)
    for value in captured.graph.weights.values():
        tensor = cut_tensor(value.tensor.detach(), cuts.weights.get(value, ()))
        # What the code makes of literals cannot be swapped.
        stored = value.kind != "constant" and value in read
        if stored and tensor.is_floating_point() and (tensor.dim() < 2 or not bool(tensor.any())):
            noise = torch.rand(tensor.shape, generator=generator).to(tensor)
            positive = bool((tensor > 0).all()) and float(tensor.mean()) > 1e-3
            tensor = tensor * (0.75 + noise / 2) if positive else tensor + 0.1 * (noise - 0.5)
        out[value] = tensor
    return out


def swapped(
    model: nn.Module, values: Mapping[Value, torch.Tensor], lowered: Lowered
) -> dict[str, torch.Tensor]:
    """The weights by the names that a module has for them.

    Buffers are copies, as code may write to them.

    Args:
        model: The module.
        values: The narrowed weights.
        lowered: What is folded into them.
    """
    given = folded(values, lowered.folds)
    by_name = {name: t for v, t in given.items() for name in (v.name, *v.aliases)}
    found = {name: by_name[name] for name, _ in model.named_parameters() if name in by_name}
    buffers = {name: by_name.get(name, held).clone() for name, held in model.named_buffers()}
    return {**found, **buffers}


def _run(
    captured: CapturedModule,
    cuts: Cuts,
    values: Mapping[Value, torch.Tensor],
    known: Mapping[Value, list[torch.Tensor]] | None = None,
) -> list[torch.Tensor]:
    """Results of the rewritten graph for the example inputs.

    Args:
        captured: The captured model.
        cuts: The narrowed graph.
        values: Its weights.
        known: Where to note some of its values: as they are made, and as operations that write in
            place leave them.
    """
    graph = captured.graph
    given = given_inputs(graph, captured.flat_inputs())
    if known is None:
        found = final_values(graph, values.__getitem__, given, cuts.attrs)
        return [found[value] for value in graph.outputs if value in found]
    uses = LastUses(graph.ops, known.keys())
    run = Run(graph, values.__getitem__, [given], cuts.attrs, uses=uses)
    for value in known:
        if value in given or value.is_weight:
            known[value].append((given[value] if value in given else values[value]).clone())
    for op in run.steps():
        for value in known.keys() & set(op.outputs):
            known[value].extend(x.clone() for x in run.values(value))
    for value, noted in known.items():
        last = run.known(value) if value in values or not value.is_weight else None
        if last is not None:
            noted.append(last)
    return []


def tolerance(tensor: torch.Tensor) -> float:
    """Rounding that a sum in another order may cause, by precision."""
    return 1e3 * torch.finfo(tensor.dtype).eps if tensor.is_floating_point() else 0.0

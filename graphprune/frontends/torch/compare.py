"""compare: the returned module must compute what the rewritten graph computes."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import nn
from torch.utils import _pytree as pytree

from graphprune.core.cuts import Cuts
from graphprune.core.errors import VerifyError
from graphprune.core.graph import Value
from graphprune.core.program import Inputs
from graphprune.engine.run import final_values, given_inputs
from graphprune.engine.state import preserved
from graphprune.engine.tensors import cut_tensor, difference
from graphprune.frontends.torch.lift import TorchProgram
from graphprune.frontends.torch.lower import Lowered
from graphprune.frontends.torch.parts import same_draws
from graphprune.frontends.torch.scale import folded


def compare(program: TorchProgram, cuts: Cuts, lowered: Lowered) -> float:
    """Run the lowered module and the rewritten graph on the example inputs.

    Gains and statistics are perturbed in both alike: a branch that starts at zero would hide a
    difference.

    Returns:
        The largest relative difference between their results.

    Raises:
        VerifyError: They differ by more than rounding, or in shape.
    """
    values = _perturbed(program, cuts)
    with same_draws():
        expected = _run(program, cuts, values)
    model = lowered.model
    given = folded(values, lowered.folds)
    by_name = {name: t for v, t in given.items() for name in (v.name, *v.aliases)}
    named = {**dict(model.named_parameters()), **dict(model.named_buffers())}
    swap = {name: by_name[name] for name in named if name in by_name}
    args, kwargs = pytree.tree_map_only(torch.Tensor, torch.clone, program.inputs)
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
    for value, wanted, tensor in zip(program.graph.outputs, expected, tensors, strict=False):
        gap = difference(wanted.double(), tensor.double())
        if gap > _tolerance(wanted):
            raise VerifyError(
                f"the smaller module differs from the rewritten graph at output {value.name}: "
                f"largest relative difference {gap:.3g}",
                value.name,
                gap,
            )
        worst = max(worst, gap)
    return worst


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


def _perturbed(program: TorchProgram, cuts: Cuts) -> dict[Value, torch.Tensor]:
    """The narrowed weights, vectors and weights near zero moved off their start."""
    out: dict[Value, torch.Tensor] = {}
    generator = torch.Generator().manual_seed(0)
    for value in program.graph.weights.values():
        tensor = cut_tensor(value.tensor.detach(), cuts.weights.get(value, ()))
        stored = value.kind != "constant"  # what the code makes of literals cannot be swapped
        if stored and tensor.is_floating_point() and (tensor.dim() < 2 or not bool(tensor.any())):
            noise = torch.rand(tensor.shape, generator=generator).to(tensor)
            positive = bool((tensor > 0).all()) and float(tensor.mean()) > 1e-3
            tensor = tensor * (0.75 + noise / 2) if positive else tensor + 0.1 * (noise - 0.5)
        out[value] = tensor
    return out


def _run(
    program: TorchProgram, cuts: Cuts, values: Mapping[Value, torch.Tensor]
) -> list[torch.Tensor]:
    """Results of the rewritten graph for the example inputs."""
    graph = program.graph
    found = final_values(
        graph, values.__getitem__, given_inputs(graph, program.flat_inputs()), cuts.attrs
    )
    return [found[value] for value in graph.outputs if value in found]


def _tolerance(tensor: torch.Tensor) -> float:
    """Rounding that a sum in another order may cause, by precision."""
    return 1e3 * torch.finfo(tensor.dtype).eps if tensor.is_floating_point() else 0.0

"""Modules in int8, by torchao's PT2E."""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from typing import Any

import torch
from torch import nn
from torch.fx import Graph, Node
from torch.utils import _pytree as pytree

from graphprune.core.agreement import compared
from graphprune.core.errors import GraphPruneError, first_line
from graphprune.core.groups import Dependencies
from graphprune.core.program import Program
from graphprune.core.progress import progress
from graphprune.engine.state import quiet
from graphprune.frontends.torch.saving import tensor_bytes
from graphprune.quantising.quantised import Quantised
from graphprune.statistics.answers import scored


def quantised_module(program: Program, deps: Dependencies, seen: Any, held: Any) -> Quantised:
    """Quantise a module by torchao's PT2E, for the x86 kernels of Inductor."""
    from torchao.quantization.pt2e import move_exported_model_to_eval
    from torchao.quantization.pt2e.quantize_pt2e import convert_pt2e, prepare_pt2e
    from torchao.quantization.pt2e.quantizer import x86_inductor_quantizer as x86

    module: nn.Module = program.model
    args, kwargs = program.example()
    leaves, structure = pytree.tree_flatten((args, kwargs))

    def inputs(chunk: Sequence[torch.Tensor]) -> tuple[Any, Any]:
        new = iter(chunk)
        filled = [next(new) if isinstance(x, torch.Tensor) else x for x in leaves]
        found: tuple[Any, Any] = pytree.tree_unflatten(filled, structure)
        return found

    first_args, first_kwargs = inputs(seen[0])
    training = module.training
    try:
        with quiet(), warnings.catch_warnings(), torch.no_grad():
            warnings.simplefilter("ignore")
            exported = torch.export.export(
                module.eval(), first_args, first_kwargs, strict=False
            ).module()
            _tell_apart(module, exported.graph)
            quantizer = x86.X86InductorQuantizer()
            quantizer.set_global(x86.get_default_x86_inductor_quantization_config())
            prepared = prepare_pt2e(exported, quantizer)
            with progress("int8") as advance:
                runs, before, after = len(seen) + 2 * len(held), [], []
                for number, chunk in enumerate(seen, 1):
                    own_args, own_kwargs = inputs(chunk)
                    prepared(*own_args, **own_kwargs)
                    advance(number / runs)
                made = convert_pt2e(prepared)
                move_exported_model_to_eval(made)
                for number, chunk in enumerate(held, 1):
                    before.append(_flat(module, inputs(chunk)))
                    after.append(_flat(made, inputs(chunk)))
                    advance((len(seen) + 2 * number) / runs)
    except Exception as error:
        raise GraphPruneError(
            f"torchao cannot quantise this model: {first_line(error)}. ONNX Runtime may: write it "
            "as ONNX (torch.onnx.export, or Plan.write) and pass that file"
        ) from error
    finally:
        module.train(training)
    unused = set(dict(made.named_parameters())) | set(dict(made.named_buffers()))
    unused -= {node.target for node in made.graph.nodes if node.op == "get_attr"}
    numbers = compared(before, after, scored(deps))
    kept, same, _ = numbers or (None, None, None)
    note = "static PT2E for x86; fast once compiled by torch.compile(model)"
    return Quantised(
        made, (tensor_bytes(module), tensor_bytes(made, unused)), kept, same, 0, "", note
    )


def _tell_apart(module: nn.Module, graph: Graph) -> None:
    """Give each call of a module that is called more than once a source of its own.

    torchao looks for layer, addition and ReLU by the module that a node comes from. Two calls of
    one module, as of the ReLU in a residual block, are one to it, of which it takes no second.
    """
    calls: dict[str, list[Node]] = {}
    for node in graph.nodes:
        stack = node.meta.get("nn_module_stack")
        if node.op == "call_function" and stack and "source_fn_stack" not in node.meta:
            path, _ = list(stack.values())[-1]
            calls.setdefault(path, []).append(node)
    known = dict(module.named_modules(remove_duplicate=False))
    for path, nodes in calls.items():
        if path in known and len(nodes) > 1 and len({node.target for node in nodes}) == 1:
            for node in nodes:
                node.meta["source_fn_stack"] = [(node.name, type(known[path]))]


def _flat(function: Any, given: tuple[Any, Any]) -> list[torch.Tensor]:
    args, kwargs = given
    output = function(*args, **kwargs)
    if hasattr(output, "to_tuple"):
        output = output.to_tuple()
    return [x for x in pytree.tree_leaves(output) if isinstance(x, torch.Tensor)]

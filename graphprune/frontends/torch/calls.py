"""calls: the calls that a module makes, as a graph of torch.fx.

They are recorded on tensors without values, which takes less time than torch.export; the module is
exported where that cannot follow its code.
"""

from __future__ import annotations

import logging
from contextlib import redirect_stderr, redirect_stdout
from io import StringIO

import torch
from torch import nn
from torch.utils import _pytree as pytree

from graphprune.core.errors import GraphPruneError, LiftError, first_line, named_line
from graphprune.core.program import Inputs
from graphprune.engine.state import kept_tensors, preserved, quiet
from graphprune.frontends.torch.composed import take_apart
from graphprune.frontends.torch.failing import located
from graphprune.frontends.torch.known import Known
from graphprune.frontends.torch.older import empty_last, mended
from graphprune.frontends.torch.reader import traced
from graphprune.frontends.torch.tables import keeps_tables
from graphprune.frontends.torch.traced import Trace
from graphprune.frontends.torch.tracing import trace

_log = logging.getLogger("graphprune")

# What code that looks at values becomes.
_VALUES = {torch.ops.aten.item.default, torch.ops.aten._assert_scalar.default}


class NotTracedError(LiftError):
    """torch.export cannot trace a model, or the inputs are wrong."""


def calls_of(model: nn.Module, inputs: Inputs) -> Trace:
    """The calls of a module in its present mode.

    Args:
        model: The module.
        inputs: Positional and keyword arguments for its `forward`.

    Raises:
        NotTracedError: It can be neither recorded nor exported; the message tells the way out.
    """
    try:
        return _traced(model, inputs)
    except GraphPruneError:
        raise
    except Exception as error:
        where = located(error) or "the operation named above"
        raise NotTracedError(
            f"torch.export cannot capture {type(model).__name__}: {named_line(error)}\n"
            f"Rewrite {where}\n"
            "without control flow that depends on data, or shrink the submodule that holds the "
            "weights: model.backbone = graphprune.shrink(model.backbone, ratio, "
            "example_inputs=(x,))"
        ) from error


def calls_on_trial(model: nn.Module, inputs: Inputs) -> Trace:
    """As `calls_of`, with inputs that may be wrong: code that looks at values is run with them."""
    found = _traced(model, inputs)
    if any(node.target in _VALUES for node in found.graph.nodes):
        with preserved(model), torch.no_grad(), quiet():
            model(*inputs[0], **inputs[1])
    return found


def known_calls(model: nn.Module, inputs: Inputs) -> Trace:
    """As `calls_of`, where code asks for numbers that tensors hold: those of these inputs."""
    with Known(model, inputs).following():
        return exported(model, inputs)


def _traced(model: nn.Module, inputs: Inputs) -> Trace:
    """The calls of a module, recorded; exported, where that cannot follow its code."""
    if keeps_tables(model):
        _run_once(model, inputs)
    filled, kept = False, set[tuple[str, str]]()
    try:
        with preserved(model):
            try:
                with kept_tensors(model) as kept:
                    found = recorded(model, inputs)
            finally:
                filled = any(not is_tensor(model, *place) for place in kept)
        found.keeps = bool(kept)
    except Exception as error:
        _log.debug("%s is exported: %s", type(model).__name__, first_line(error))
        found = exported(model, inputs)
        found.keeps |= filled  # torch.export takes back what code puts into containers
    return found


def _run_once(model: nn.Module, inputs: Inputs) -> None:
    """Let code fill tables outside the module with values, as no pass without values may do."""
    try:
        with preserved(model), torch.no_grad(), quiet():
            model(*inputs[0], **inputs[1])
    except Exception as error:  # told where it is captured
        _log.debug("%s does not run: %s", type(model).__name__, first_line(error))


def recorded(model: nn.Module, inputs: Inputs) -> Trace:
    """The calls as they are made on tensors without values; the caller undoes what they leave."""
    with quiet(), redirect_stdout(StringIO()), redirect_stderr(StringIO()):
        return trace(model, inputs)


def exported(model: nn.Module, inputs: Inputs) -> Trace:
    """The calls that torch.export finds."""
    args, kwargs = pytree.tree_map_only(torch.Tensor, _owning, inputs)
    silent = redirect_stdout(StringIO()), redirect_stderr(StringIO())
    with (
        preserved(model),
        kept_tensors(model) as kept,
        quiet(),
        mended(),
        empty_last(model),
        silent[0],
        silent[1],
    ):
        found = traced(torch.export.export(model, args, kwargs, strict=False))
    take_apart(found.graph)
    found.keeps = bool(kept)
    return found


def _owning(tensor: torch.Tensor) -> torch.Tensor:
    """A tensor with memory of its own: of views, torch.export takes the base to be of any size."""
    return tensor.clone() if tensor._is_view() else tensor


def is_tensor(model: nn.Module, path: str, name: str) -> bool:
    """Whether what a module holds under a name is a tensor."""
    return isinstance(getattr(model.get_submodule(path), name, None), torch.Tensor)

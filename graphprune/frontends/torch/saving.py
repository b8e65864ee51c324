"""Writing a model to a file, whole or not at all."""

from __future__ import annotations

import tempfile
from collections.abc import Collection, Iterator
from contextlib import contextmanager, redirect_stderr, redirect_stdout
from io import StringIO
from pathlib import Path
from typing import Any

import torch
from torch import nn
from torch.export import ExportedProgram

from graphprune.core.errors import GraphPruneError, first_line
from graphprune.core.files import write_whole
from graphprune.core.program import Inputs
from graphprune.engine.state import quiet
from graphprune.frontends.torch.older import mended

_NOTED = ("pkg.torch.", "pkg.onnxscript.", "namespace")
"""How the keys start under which `torch.onnx.export` notes where a node comes from."""


def save_model(model: nn.Module | ExportedProgram, inputs: Inputs, path: Path) -> None:
    """Write a model.

    Args:
        model: The module, or a program exported from it.
        inputs: Example inputs, for the formats that need a trace.
        path: `.pt` (the pickled module), `.pt2` (an exported program) or `.onnx`.

    Raises:
        GraphPruneError: The format cannot hold this model, or the file cannot be written.
    """
    args, kwargs = inputs
    if path.suffix == ".pt" and isinstance(model, ExportedProgram):
        raise GraphPruneError(f"{path}: an exported program is written as a .pt2 or .onnx file")
    with tempfile.TemporaryDirectory() as folder, silent():
        target = Path(folder) / f"model{path.suffix}"
        try:
            if path.suffix == ".pt":
                torch.save(model, target)
            else:
                program = (
                    model if isinstance(model, ExportedProgram) else _exported(model, args, kwargs)
                )
                if path.suffix == ".pt2":
                    torch.export.save(program, target)
                else:
                    torch.onnx.export(
                        program, (), target, dynamo=True, external_data=False, verbose=False
                    )
        except Exception as error:
            raise GraphPruneError(
                f"cannot write the model as {path.suffix}: {first_line(error)}"
            ) from error
        content = target.read_bytes()
    write_whole(path, _without_traces(content) if path.suffix == ".onnx" else content)


def _without_traces(content: bytes) -> bytes:
    """An ONNX file without what the exporter noted of where each node comes from.

    These notes quote paths and lines of the exporting machine's code, at each node, and can take
    more bytes than the weights of a small model.
    """
    import onnx

    model = onnx.load_from_string(content)
    graph = model.graph
    functions = [node for function in model.functions for node in function.node]
    for held in (graph, *graph.node, *graph.input, *graph.output, *graph.value_info,
                 *graph.initializer, *model.functions, *functions):  # fmt: skip
        own = [x for x in held.metadata_props if not x.key.startswith(_NOTED)]
        if len(own) < len(held.metadata_props):
            del held.metadata_props[:]
            held.metadata_props.extend(own)
    written: bytes = model.SerializeToString()
    return written


def _exported(model: nn.Module, args: Any, kwargs: Any) -> torch.export.ExportedProgram:
    """The model as a program for any batch size, or for the example's if its code needs that."""
    if not kwargs and all(isinstance(x, torch.Tensor) and x.dim() for x in args):
        shapes = tuple({0: torch.export.Dim.AUTO} for _ in args)
        try:
            return torch.export.export(model, args, dynamic_shapes=shapes, strict=False)
        except Exception:  # the code fixes its batch size: the example's is then the only one
            pass
    return torch.export.export(model, args, kwargs, strict=False)


@contextmanager
def silent() -> Iterator[None]:
    """Keep the exporters' chatter out of the output."""
    with quiet(), mended(), redirect_stdout(StringIO()), redirect_stderr(StringIO()):
        yield


def tensor_bytes(module: nn.Module, without: Collection[str] = ()) -> int:
    """Bytes of all parameters and buffers, each counted once, without those of some names."""
    named = {**dict(module.named_parameters()), **dict(module.named_buffers())}
    tensors = {id(x): x for name, x in named.items() if name not in without}
    return sum(x.numel() * x.element_size() for x in tensors.values())

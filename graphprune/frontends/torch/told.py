"""told: what a model tells of its modules' widths, beside the modules.

Some keep a list of entries, each of which names a module and holds the number of channels that it
makes (timm's `feature_info`): whoever builds a head on the model reads it.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

from torch import nn

from graphprune.core.axes import Dim, length
from graphprune.core.cuts import Cuts
from graphprune.core.graph import Op
from graphprune.core.indices import kept_length
from graphprune.engine.state import holders
from graphprune.frontends.torch.captured import CapturedModule


def retell(model: nn.Module, captured: CapturedModule, cuts: Cuts) -> None:
    """Give entries that name a module and its channels the new numbers.

    Args:
        model: The smaller module, whose entries are changed.
        captured: The captured model.
        cuts: The narrowed graph.
    """
    counts = {axis: len(kept) for axis, kept in cuts.keep.items()}
    for path, module in model.named_modules():
        for entry, name in _entries(module):
            ops = _inside(captured.graph.ops, f"{path}.{name}" if path else name)
            for key, held in entry.items():
                if type(held) is int and held > 1:
                    dims = next((d for d in _dims(ops, cuts, held) if d), [])
                    found = {kept_length(dim, counts) for dim in dims}
                    if len(found) == 1:
                        entry[key] = found.pop()


def _entries(module: nn.Module) -> Iterator[tuple[dict[str, Any], str]]:
    """Entries of lists that a module, or a plain object of it, holds, and the module they name."""
    paths: set[str] | None = None
    for _, holder in holders(module):
        for held in holder.values():
            if not isinstance(held, list | tuple) or not held or type(held[0]) is not dict:
                continue
            if paths is None:
                paths = {name for name, _ in module.named_modules() if name}
            for entry in held:
                words = (x for x in entry.values() if isinstance(x, str)) if entry else ()
                named = [word for word in words if word in paths]
                if len(named) == 1:
                    yield entry, named[0]


def _inside(ops: Sequence[Op], path: str) -> list[Op]:
    """The operations that lie in a module, or below it."""
    return [op for op in ops if op.module == path or op.module.startswith(f"{path}.")]


def _dims(ops: Sequence[Op], cuts: Cuts, held: int) -> Iterator[list[Dim]]:
    """Dimensions of such a length: of what a module makes, else of what it takes."""
    if ops:
        for values in (ops[-1].outputs, ops[0].inputs[:1]):
            yield [
                dim
                for value in values
                if value is not None
                for dim in cuts.deps.dims[value]
                if length(dim) == held
            ]

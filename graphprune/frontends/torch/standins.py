"""standins: tensors without values in place of the weights and inputs of a module."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

from torch import Tensor, nn

from graphprune.frontends.torch.forms import blank

_CONTAINERS = (dict, list, tuple)


class StandIns:
    """Tensors without values that stand for others, one for each.

    Args:
        paths: The path of each module.
    """

    def __init__(self, paths: Mapping[nn.Module, str]) -> None:
        self._paths = paths
        self._blanks: dict[int, Tensor] = {}
        self._all: set[int] = set()

    def blank(self, tensor: Tensor) -> Tensor:
        """A tensor of the same form without values, the same each time."""
        if id(tensor) not in self._blanks:
            made = blank(tensor)
            if isinstance(tensor, nn.Parameter):
                made = nn.Parameter(made, tensor.requires_grad)
            self._blanks[id(tensor)] = made.requires_grad_(tensor.requires_grad)
            self._all.add(id(made))
        return self._blanks[id(tensor)]

    def has(self, tensor: Tensor) -> bool:
        """Whether a tensor stands for one that is stored or given."""
        return id(tensor) in self._all

    @contextmanager
    def placed(self) -> Iterator[None]:
        """Tensors without values in place of all weights."""
        held: list[tuple[dict[str, Any], dict[str, Any]]] = []
        try:
            for module in self._paths:
                for store in (module._parameters, module._buffers):
                    held.append((store, dict(store)))
                    store.update(self._all_blank(store))
            yield
        finally:
            for store, before in held:
                store.clear()
                store.update(before)

    def _all_blank(self, store: Mapping[str, Tensor | None]) -> dict[str, Any]:
        return {name: self.blank(held) for name, held in store.items() if held is not None}

    def kept(self) -> str:
        """What the code keeps of what it makes, and where; nothing, where it keeps none."""
        for module, path in self._paths.items():
            for name, held in module.__dict__.items():
                if isinstance(held, Tensor):
                    items: Iterable[Any] = [held]
                elif isinstance(held, _CONTAINERS):
                    items = held.values() if isinstance(held, dict) else held
                else:
                    continue
                for item in items:
                    if isinstance(item, Tensor) and item.is_meta and not self.has(item):
                        return f"{path or 'the model'} keeps {name}"
        return ""

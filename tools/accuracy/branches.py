"""Networks that choose their way by the data, so that they are captured in parts."""

from __future__ import annotations

from typing import cast

from torch import Tensor, nn


class Branching(nn.Module):
    """Chooses its way by the data, which torch.export cannot trace."""

    def __init__(self, inner: nn.Module) -> None:
        super().__init__()
        self.inner = inner

    def forward(self, x: Tensor) -> Tensor:
        """As the module inside; no number is so small."""
        y = cast(Tensor, self.inner(x))
        return y if float(y.detach().sum()) > -1e30 else -y


def branching(model: nn.Module) -> nn.Module:
    """The same network with a branch behind its largest part; modified in place."""

    def held(name: str) -> int:
        return sum(p.numel() for p in model.get_submodule(name).parameters())

    largest = max((name for name, _ in model.named_children()), key=held)
    setattr(model, largest, Branching(model.get_submodule(largest)))
    return model.eval()

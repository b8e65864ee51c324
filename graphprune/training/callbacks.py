"""Methods of training inside other people's loops: `transformers.Trainer` and Lightning."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from importlib import import_module
from pathlib import Path
from typing import Any

import torch
from torch import nn

from graphprune.core.errors import GraphPruneError, OptionError
from graphprune.training.attached import Attached

Maker = Callable[[nn.Module], Attached]
"""Makes a method for a model: `lambda model: GroupLasso(model, 1e-4, example_inputs=x)`."""


STATE = "graphprune.pt"
"""The file in a Trainer's checkpoint that holds the state of the methods."""


class _Methods:
    """Methods that are made and attached when training starts, with their state.

    Attributes:
        methods: The methods; empty until training starts.
    """

    def __init__(self, makers: Sequence[Maker]) -> None:
        for maker in makers:
            if not callable(maker):
                raise OptionError(
                    f"a function of the model is needed, that makes a method, not {maker!r}: "
                    "lambda model: GroupLasso(model, 1e-4)"
                )
        self.makers = tuple(makers)
        self.methods: list[Attached] = []
        self._states: list[dict[str, Any]] = []

    def start(self, model: nn.Module, optimizer: Any) -> None:
        """Make and attach the methods; where a state was loaded, go on from it."""
        if self.methods:
            return
        for maker in self.makers:
            method = maker(model)
            if not isinstance(method, Attached):
                raise OptionError(f"{maker!r} made {method!r}, which is no method of training")
            self.methods.append(method.attach(optimizer))
        for method, state in zip(self.methods, self._states, strict=False):
            method.load_state_dict(state)

    def state(self) -> dict[str, Any]:
        """The state of all methods."""
        return {"methods": [method.state_dict() for method in self.methods]}

    def load(self, state: dict[str, Any]) -> None:
        """Go on from a state once training starts, or at once where it has started."""
        self._states = list(state["methods"])
        for method, held in zip(self.methods, self._states, strict=False):
            method.load_state_dict(held)


class _Callback:
    """What callbacks of both trainers are."""

    def __init__(self, makers: Sequence[Maker]) -> None:
        self._held = _Methods(makers)

    @property
    def methods(self) -> list[Attached]:
        """The methods, once training has begun."""
        return self._held.methods


def _place(args: Any, state: Any) -> Path | None:
    """The file in the Trainer's checkpoint of this step that holds the methods' state."""
    folder = getattr(args, "output_dir", None)
    if folder is None or not state.global_step:
        return None
    return Path(folder) / f"checkpoint-{state.global_step}" / STATE


def for_trainer(*makers: Maker) -> Any:
    """A callback for `transformers.Trainer`; its state travels in the Trainer's checkpoints.

    A `Gradual` that is to go on from a checkpoint needs its state before the Trainer loads the
    smaller weights: `Gradual(model, ...).load_state_dict(state)` on the fresh model, with what
    `torch.load` finds under `"methods"` in the checkpoint's `graphprune.pt`.

    Args:
        *makers: Each makes a method for the model, once its optimizer exists.

    Returns:
        A `transformers.TrainerCallback` with the attribute `methods`.

    Raises:
        GraphPruneError: transformers is not installed.

    Example::

        lasso = for_trainer(lambda model: GroupLasso(model, 1e-4, example_inputs=batch))
        Trainer(model, arguments, train_dataset=data, callbacks=[lasso]).train()
    """
    try:
        base: Any = import_module("transformers").TrainerCallback
    except ImportError:
        raise GraphPruneError("for_trainer needs transformers: pip install transformers") from None

    class GraphPruneCallback(_Callback, base):  # type: ignore[misc]
        """Attaches methods of training to the Trainer's optimizer."""

        def on_train_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
            path = _place(args, state)
            if not self._held.methods and path is not None and path.is_file():
                self._held.load(torch.load(path, weights_only=True))
            self._held.start(kwargs["model"], kwargs["optimizer"])

        def on_save(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
            path = _place(args, state)
            if state.is_world_process_zero and path is not None and path.parent.is_dir():
                torch.save(self._held.state(), path)

    return GraphPruneCallback(makers)


def for_lightning(*makers: Maker) -> Any:
    """A callback for Lightning's `Trainer`; its state travels in Lightning's checkpoints.

    Args:
        *makers: Each makes a method for the `LightningModule`, whose `example_input_array` or the
            maker's own `example_inputs=` tells what it takes.

    Returns:
        A `lightning.pytorch.Callback` with the attribute `methods`.

    Raises:
        GraphPruneError: lightning is not installed.

    Example::

        lasso = for_lightning(lambda module: GroupLasso(module.net, 1e-4, example_inputs=x))
        lightning.Trainer(callbacks=[lasso]).fit(module, loader)
    """
    try:
        base: Any = import_module("lightning.pytorch").Callback
    except ImportError:
        raise GraphPruneError("for_lightning needs lightning: pip install lightning") from None

    class GraphPruneCallback(_Callback, base):  # type: ignore[misc]
        """Attaches methods of training to the Trainer's first optimizer."""

        def on_train_start(self, trainer: Any, pl_module: Any) -> None:
            self._held.start(pl_module, trainer.optimizers[0])

        def state_dict(self) -> dict[str, Any]:
            return self._held.state()

        def load_state_dict(self, state_dict: dict[str, Any]) -> None:
            self._held.load(state_dict)

    return GraphPruneCallback(makers)

"""Methods of training inside other people's loops: `transformers.Trainer` and Lightning."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from importlib import import_module
from pathlib import Path
from typing import Any

import torch
from torch import nn

from graphprune.core.errors import GraphPruneError, OptionError
from graphprune.training.attached import Attached, bare

Maker = Callable[[nn.Module], Attached]
"""Makes a method for a model: `lambda model: GroupLasso(model, 1e-4, example_inputs=x)`."""


STATE = "graphprune.pt"
"""The file in a Trainer's checkpoint that holds the state of the methods."""


class _Methods:
    """Methods that are made and attached when training starts, with their state.

    Attributes:
        methods: The methods; empty until training starts.
        ahead: Whether they have a state that will be loaded once more.
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
        self._model: nn.Module | None = None
        self._states: list[dict[str, Any]] = []
        self.ahead = False

    def make(self, model: nn.Module) -> None:
        """Make the methods; where a state was loaded, they take it, and the model its form.

        It is done once for a model: a loop may make its model anew before it trains.
        """
        if self._model is bare(model):
            return
        self._model, self.methods = bare(model), []
        for maker in self.makers:
            method = maker(model)
            if not isinstance(method, Attached):
                raise OptionError(f"{maker!r} made {method!r}, which is no method of training")
            self.methods.append(method)
        for method, state in zip(self.methods, self._states, strict=False):
            method.load_state_dict(state)

    def start(self, model: nn.Module, optimizer: Any) -> None:
        """Attach the methods."""
        self.make(model)
        own = getattr(optimizer, "optimizer", optimizer)
        for method in self.methods:
            if method.is_attached and method.optimizer is not own:
                method.detach()
            if not method.is_attached:
                method.attach(optimizer)

    def state(self) -> dict[str, Any]:
        """The state of all methods."""
        return {"methods": [method.state_dict() for method in self.methods]}

    def load(self, state: dict[str, Any]) -> None:
        """Go on from a state once the methods are made, or at once where they are."""
        if self.ahead:
            self.ahead = False
            return
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


def for_trainer(*makers: Maker, resume: str | os.PathLike[str] | None = None) -> Any:
    """A callback for `transformers.Trainer`; its state travels in the Trainer's checkpoints.

    Args:
        *makers: Each makes a method for the model, at the end of the Trainer's `__init__`.
        resume: The checkpoint that `train(resume_from_checkpoint=...)` will go on from. `Gradual`
            needs it: the model becomes smaller before its weights are loaded.

    Returns:
        A `transformers.TrainerCallback` with the attribute `methods`.

    Raises:
        GraphPruneError: transformers is not installed, or `resume` holds no state.

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

        def on_init_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
            # Before the optimizer is made: it holds gates in the same place in every run, so that
            # its state in a checkpoint, which goes by places, fits.
            if kwargs.get("model") is not None:
                self._held.make(kwargs["model"])

        def on_train_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
            path = _place(args, state)
            if resume is None and path is not None and path.is_file():
                self._held.load(torch.load(path, weights_only=True))
            self._held.start(kwargs["model"], kwargs["optimizer"])

        def on_save(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
            path = _place(args, state)
            if state.is_world_process_zero and path is not None and path.parent.is_dir():
                torch.save(self._held.state(), path)

    made = GraphPruneCallback(makers)
    if resume is not None:
        path = Path(resume) / STATE
        if not path.is_file():
            raise GraphPruneError(f"{resume} holds no {STATE}: it is no checkpoint of such a run")
        made._held.load(torch.load(path, weights_only=True))
    return made


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

        def setup(self, trainer: Any, pl_module: Any, stage: str) -> None:
            # Gates and smaller widths must be there before the optimizer is made and the module's
            # weights are loaded, and Lightning tells callbacks of a checkpoint only afterwards.
            theirs = pl_module.on_load_checkpoint

            def first(checkpoint: dict[str, Any]) -> None:
                del pl_module.on_load_checkpoint
                state = checkpoint.get("callbacks", {}).get(self.state_key)
                if state is not None:
                    self._held.load(state)
                    self._held.ahead = True
                theirs(checkpoint)

            if stage == "fit":
                self._held.make(pl_module)
                pl_module.on_load_checkpoint = first

        def on_train_start(self, trainer: Any, pl_module: Any) -> None:
            pl_module.__dict__.pop("on_load_checkpoint", None)
            self._held.start(pl_module, trainer.optimizers[0])

        def state_dict(self) -> dict[str, Any]:
            return self._held.state()

        def load_state_dict(self, state_dict: dict[str, Any]) -> None:
            self._held.load(state_dict)

    return GraphPruneCallback(makers)

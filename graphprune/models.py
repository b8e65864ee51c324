"""Which model, and which data, a name means."""

from __future__ import annotations

import difflib
import importlib
import inspect
import os
import sys
from collections.abc import Sequence
from operator import attrgetter
from pathlib import Path
from pickle import UnpicklingError
from typing import Any

import numpy as np
import torch
from torch import nn
from torch.utils import _pytree as pytree

from graphprune.core.errors import GraphPruneError, named_line
from graphprune.core.files import as_path
from graphprune.core.program import Inputs
from graphprune.frontends.onnx import is_onnx
from graphprune.frontends.opening import readable
from graphprune.pictures import read_pictures
from graphprune.statistics.constants import SAMPLES

_FOLDER = "cannot read {}: it is a folder; name a model, or a file that holds one"
_PICKLES = (".pt", ".pth", ".bin", ".ckpt", ".tar")


def given(model: Any) -> Any:
    """A model as the caller gives it: one that only has a name, or a file, is loaded.

    Raises:
        GraphPruneError: There is no such model or file.
    """
    if not isinstance(model, str | os.PathLike):
        return model
    path = as_path(model)
    if not readable(model):
        return load_model(os.fspath(model))
    if path.is_dir():
        raise GraphPruneError(_FOLDER.format(path))
    if not path.is_file():
        raise GraphPruneError(f"cannot read {path}: there is no file {path}")
    return model


def given_data(data: Any, model: Any, inputs: Inputs | None = None, most: int = SAMPLES) -> Any:
    """Calibration data as the caller gives them: those that only have a name, or a file, are read.

    Args:
        data: What `load_data` takes, a folder of pictures, or anything else, which stays as it is.
        model: Tells how pictures are prepared, and whether arrays go by names of inputs.
        inputs: Example inputs, of which one of four dimensions tells the size of pictures.
        most: Pictures that are read, at most.

    Raises:
        GraphPruneError: There is no such file or object, or it cannot be read.
    """
    if not isinstance(data, str | os.PathLike):
        return data
    path = as_path(data)
    if not path.is_dir():
        return load_data(os.fspath(data), is_onnx(model))
    held = [x for x in pytree.tree_leaves(inputs) if isinstance(x, torch.Tensor) and x.dim() == 4]
    size, last = None, False
    if is_onnx(model):
        from graphprune.frontends.onnx.pictures import picture_of  # importing it imports onnx

        size, last = picture_of(model)
    if held:
        height, width = held[0].shape[1:3] if last else held[0].shape[2:]
        size = (height, width)
    found = read_pictures(path, model, most, size)
    return found.movedim(1, -1) if last else found


def load_model(name: str, weights: str | Path | None = None) -> Any:
    """The model that a name or a file stands for.

    That is a module in eval mode, or the path of an `.onnx` or `.pt2` file.

    Args:
        name: `timm:NAME`, `torchvision:NAME`, a bare name of either, `pkg.mod:factory` (called
            without arguments), an `.onnx` or `.pt2` file, or a `.pt`/`.pth` file that holds a whole
            pickled module, which is unpickled: open only files you trust.
        weights: A `.safetensors` or `.pt` file with the model's state dict.

    Raises:
        GraphPruneError: There is no such model or file, or the weights do not fit.
    """
    if is_onnx(name) or as_path(name).suffix == ".pt2":
        return _whole(name, weights)
    model = _resolve(name)
    if not isinstance(model, nn.Module):
        raise GraphPruneError(f"{name} is a {type(model).__name__}, not a torch.nn.Module")
    if weights is not None:
        _load_weights(model, as_path(weights))
    return model.eval()


def load_data(name: str, named: bool = False) -> Any:
    """The calibration data that a name or a file stands for.

    Args:
        name: `pkg.mod:factory` (an object, or a function called without arguments), a `.npy` or
            `.npz` file (its first array holds inputs, its second labels), or a `.pt` file of
            tensors.
        named: Whether the arrays of a `.npz` file go by the names of the model's inputs, as those
            of an ONNX model do; the result is then a dict of them.

    Raises:
        GraphPruneError: There is no such file or object, or it cannot be read.
    """
    path = as_path(name)
    if path.suffix not in (".npy", ".npz", ".pt"):
        module, colon, attribute = name.partition(":")
        if not colon:
            raise GraphPruneError(
                f"data: {name} is no .npy, .npz or .pt file, no folder and no pkg.mod:factory"
            )
        return _imported(module, attribute)
    if not path.is_file():
        raise GraphPruneError(f"there is no file {path}")
    try:
        if path.suffix == ".pt":
            return torch.load(path, map_location="cpu", weights_only=True)
        found = np.load(path, allow_pickle=False)
    except ValueError as error:  # its words ask for unpickling, which runs code
        raise GraphPruneError(
            f"cannot read {path}: it is damaged, or holds Python objects rather than numbers"
        ) from error
    except Exception as error:
        raise GraphPruneError(f"cannot read {path}: {error}".splitlines()[0]) from error
    if path.suffix == ".npy":
        return found
    if named:
        return {key: found[key] for key in found.files}
    arrays = [found[key] for key in found.files[:2]]
    return tuple(arrays) if len(arrays) == 2 else arrays[0]


def _whole(name: str, weights: str | Path | None) -> Path:
    if weights is not None:
        raise GraphPruneError(f"{name} holds its own weights: leave out --weights")
    return Path(name)


def _resolve(name: str) -> Any:
    library, colon, rest = name.partition(":")
    if library == "timm" and colon:
        return _timm(rest)
    if library == "torchvision" and colon:
        return _torchvision(rest)
    if Path(name).suffix in (".pt", ".pth"):
        return _unpickled(Path(name))
    if colon:
        return _imported(library, rest)
    return _torchvision(name) if name in _torchvision_names() else _timm(name)


def _torchvision_names() -> list[str]:
    try:
        from torchvision import models
    except ImportError:
        return []
    return list(models.list_models())


def _timm(name: str) -> Any:
    try:
        import timm
    except ImportError:
        raise GraphPruneError(
            f"{name} is not known here: pip install 'graphprune[models]' for timm and torchvision"
        ) from None
    known = timm.list_models()
    if name.split(".")[0] not in known:
        raise GraphPruneError(_unknown(name, [*known, *_torchvision_names()]))
    return timm.create_model(name)


def _torchvision(name: str) -> Any:
    known = _torchvision_names()
    if not known:
        raise GraphPruneError(f"{name} needs torchvision: pip install 'graphprune[models]'")
    if name not in known:
        raise GraphPruneError(_unknown(name, known))
    from torchvision import models

    # Their slow default initialisation serves training from scratch.
    builder = inspect.signature(models.get_model_builder(name)).parameters
    options: dict[str, Any] = (
        {"init_weights": False} if name in ("googlenet", "inception_v3") else {}
    )
    if "weights_backbone" in builder:
        options["weights_backbone"] = None  # else the backbone's are downloaded
    return models.get_model(name, weights=None, **options)


def _unknown(name: str, known: Sequence[str]) -> str:
    if Path(name).is_dir():
        return _FOLDER.format(name)
    if Path(name).is_file():
        return f"{name} is no .onnx, .pt2, .pt or .pth file"
    close = difflib.get_close_matches(name, sorted(set(known)), 5, 0.5)
    return f"no model is called {name!r}" + (f"; did you mean {', '.join(close)}?" if close else "")


def function_named(name: str) -> Any:
    """The function or object that `pkg.mod:function` stands for.

    Raises:
        GraphPruneError: It cannot be imported.
    """
    module, _, attribute = name.partition(":")
    return _found(module, attribute)


def _imported(module: str, attribute: str) -> Any:
    found = _found(module, attribute)
    if isinstance(found, nn.Module) or not callable(found):
        return found
    try:
        return found()
    except Exception as error:
        raise GraphPruneError(f"{module}:{attribute}() failed: {named_line(error)}") from error


def _found(module: str, attribute: str) -> Any:
    if "" not in sys.path:
        sys.path.insert(0, "")
    try:
        held = importlib.import_module(module)
    except Exception as error:
        raise GraphPruneError(f"cannot import {module}: {named_line(error)}") from error
    try:
        return attrgetter(attribute)(held)
    except AttributeError:
        raise GraphPruneError(f"{module} has no {attribute}") from None


def _unpickled(path: Path) -> Any:
    if not path.is_file():
        raise GraphPruneError(f"there is no file {path}")
    try:
        found = torch.load(path, map_location="cpu", weights_only=False)
    except Exception as error:
        raise GraphPruneError(f"cannot read {path}: {error}".splitlines()[0]) from error
    if isinstance(found, dict):
        raise GraphPruneError(
            f"{path} holds a state dict, not a model: name the model and pass --weights {path}"
        )
    return found


def _load_weights(model: nn.Module, path: Path) -> None:
    if not path.is_file():
        raise GraphPruneError(f"there is no file {path}")
    if path.suffix not in (".safetensors", *_PICKLES):
        raise GraphPruneError(f"{path}: weights are a .safetensors or .pt file of a state dict")
    try:
        if path.suffix == ".safetensors":
            from safetensors.torch import load_file

            state = load_file(path)
        else:
            state = torch.load(path, map_location="cpu", weights_only=True)
    except UnpicklingError as error:  # its words ask for unpickling, which runs code
        raise GraphPruneError(
            f"cannot read {path} as a state dict: it is damaged, or holds more than tensors; write "
            "model.state_dict() with torch.save"
        ) from error
    except ImportError:
        raise GraphPruneError(f"{path} needs safetensors: pip install safetensors") from None
    except Exception as error:
        raise GraphPruneError(f"cannot read {path}: {error}".splitlines()[0]) from error
    try:
        model.load_state_dict(state)
    except (RuntimeError, TypeError) as error:
        lines = str(error).splitlines()
        raise GraphPruneError(f"{path} does not fit the model: {' '.join(lines[:2])}") from error

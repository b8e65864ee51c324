"""What an earlier call of `deploy` left in its folder, and whether it was the same call."""

from __future__ import annotations

import hashlib
import json
import os
from pathlib import Path
from typing import Any

import torch
from torch import nn
from torch.export import ExportedProgram

from graphprune.core.errors import GraphPruneError
from graphprune.deploying.deployed import Stage

TORCH = (nn.Module, ExportedProgram)
"""Models of PyTorch."""


def kept(state: Path) -> dict[str, Any]:
    """What an earlier call left.

    Raises:
        GraphPruneError: The file holds something else.
    """
    try:
        held = json.loads(state.read_text(encoding="utf-8"))
        before, after = held["macs"] or (None, None)
        return {
            "key": held["key"], "macs": None if before is None else (before, after),
            "notes": list(held["notes"]),
            "stages": {name: Stage(**known) for name, known in held["stages"].items()},
        }  # fmt: skip
    except (OSError, AttributeError, KeyError, TypeError, ValueError) as error:
        raise GraphPruneError(f"{state} holds no state of a deployment: {error}") from error


def digest(model: Any) -> bytes:
    """What tells one model from another."""
    found = hashlib.sha256()
    if isinstance(model, TORCH):
        state = model.state_dict() if isinstance(model, nn.Module) else model.state_dict
        for name, tensor in state.items():
            found.update(name.encode() + str(tuple(tensor.shape)).encode())
            found.update(tensor.detach().cpu().contiguous().flatten().view(torch.uint8).numpy())
    elif isinstance(model, str | os.PathLike):
        found.update(Path(model).read_bytes())
    else:
        found.update(str(type(model)).encode())
        found.update(getattr(model, "SerializeToString", bytes)())
    return found.digest()

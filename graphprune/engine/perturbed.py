"""Weights moved off their start, so that a branch that starts at zero hides no fault."""

from __future__ import annotations

from collections.abc import Callable

import torch

from graphprune.core.graph import Graph, Value
from graphprune.engine.tensors import as_dtype


def perturbed(
    graph: Graph, seed: int, dtype: torch.dtype = torch.float64
) -> Callable[[Value], torch.Tensor]:
    """Weights in one precision; gains, statistics and weights near zero moved off their start."""
    numbers = {value: i for i, value in enumerate(graph.weights.values())}

    def read(value: Value) -> torch.Tensor:
        tensor: torch.Tensor = value.tensor
        if tensor is None:  # of a type that torch lacks: the engine reads it itself
            return tensor
        tensor = tensor.detach()
        if not tensor.is_floating_point():
            return as_dtype(tensor, dtype)
        if value.kind == "constant" and tensor.numel() == 1:
            return tensor.to(dtype)  # a number that the operation means: an exponent, a bound
        tensor = tensor.to(dtype)
        scale = float(tensor.square().mean().sqrt()) if tensor.numel() else 0.0
        if tensor.dim() > 1 and scale > 1e-3:
            return tensor
        generator = torch.Generator().manual_seed(seed * 100_003 + numbers[value])
        noise = torch.rand(tensor.shape, generator=generator, dtype=dtype)
        noise = noise.to(tensor.device)
        # Multiplied where all are positive (variances must stay so), added elsewhere.
        if bool((tensor > 0).all()) and scale > 1e-3:
            return tensor * (0.5 + noise)
        return tensor + 0.1 * (2 * noise - 1)

    return read

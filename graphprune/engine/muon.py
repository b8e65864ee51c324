"""Muon: an optimizer whose steps change a matrix equally in all directions.

With G the gradient of a matrix W, smoothed by momentum, and G = U S Vᵀ its singular values, a step
is

    W ← W - rate · |W| / √r · U Vᵀ        r = the smaller number of rows and columns

so that each step moves W by the share `rate` of its norm, whatever the sizes of weights and of
gradients (Jordan et al., Muon, 2024; relative steps: You et al., LARS, 2017). U Vᵀ comes from five
Newton-Schulz iterations, matrix products alone. Directions in which gradients are small move as
far as the others, so that fewer steps are needed than with Adam. What is no matrix, such as biases,
takes Adam's steps.

Example:
    optimizer = Muon.of(model, rate=0.01)
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable
from typing import Any

import torch
from torch import nn

MOMENTUM = 0.9
"""Of the gradients of matrices. Tried on digits: 0.8 and 0.95 came out alike."""

VECTOR_RATE = 0.1
"""The rate of Adam's steps, for what is no matrix, as a share of the relative rate. Tried on
digits: three times as much came out alike."""

_SERIES = (3.4445, -4.7750, 2.0315)
"""Coefficients of the iteration: singular values between 0 and 1 come to between 0.7 and 1.2 after
five rounds (Jordan et al. 2024)."""

_ROUNDS = 5

_NORM_FLOOR = 1e-12
"""Least norm that a gradient is divided by: one that is all zero stays zero."""


class Muon(torch.optim.Optimizer):
    """Steps of equal size in all directions for matrices, Adam's for all else.

    A tensor of more than two dimensions is a matrix of its first one by all others.

    Args:
        parameters: The tensors.
        others: Tensors that take Adam's steps even if they are matrices: tables, of which a batch
            reads some rows.
        rate: The share of its norm by which a step changes a matrix. Schedulers find it under
            "lr".
    """

    def __init__(
        self, parameters: Iterable[torch.Tensor], others: Iterable[torch.Tensor], rate: float
    ) -> None:
        matrices, vectors = list(parameters), list(others)
        vectors += [x for x in matrices if not is_matrix(x)]
        groups = [
            {"params": [x for x in matrices if is_matrix(x)], "turned": True},
            {"params": vectors, "turned": False},
        ]
        super().__init__([group for group in groups if group["params"]], {"lr": rate})

    @classmethod
    def of(cls, model: nn.Module, rate: float) -> Muon:
        """For all parameters of a model; the tables of embeddings take Adam's steps."""
        tables = {
            parameter
            for module in model.modules()
            if isinstance(module, nn.Embedding | nn.EmbeddingBag)
            for parameter in module.parameters(recurse=False)
        }
        held = list(model.parameters())
        return cls([p for p in held if p not in tables], [p for p in held if p in tables], rate)

    @torch.no_grad()
    def step(self, closure: Callable[[], Any] | None = None) -> Any:
        """One step.

        Args:
            closure: Computes the loss and its gradients anew, as for any optimizer of PyTorch.
        """
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
        for group in self.param_groups:
            for tensor in group["params"]:
                if tensor.grad is None:
                    continue
                if group["turned"]:
                    self._turn(tensor, group["lr"])
                else:
                    self._adam(tensor, group["lr"] * VECTOR_RATE)
        return loss

    def _turn(self, tensor: torch.Tensor, rate: float) -> None:
        state, grad = self.state[tensor], tensor.grad
        assert grad is not None
        if not state:
            state["momentum"] = torch.zeros_like(tensor)
            norm = torch.linalg.vector_norm(tensor)
            state["size"] = norm / math.sqrt(min(len(tensor), tensor[0].numel()))
        momentum = state["momentum"].mul_(MOMENTUM).add_(grad)
        ahead = grad.add(momentum, alpha=MOMENTUM)  # Nesterov's
        turned = orthogonal(ahead.flatten(1)).view_as(tensor)
        tensor.sub_(turned * (state["size"] * rate))

    def _adam(self, tensor: torch.Tensor, rate: float) -> None:
        state, grad = self.state[tensor], tensor.grad
        assert grad is not None
        if not state:
            state["step"] = 0
            state["mean"], state["square"] = torch.zeros_like(tensor), torch.zeros_like(tensor)
        state["step"] += 1
        first, second = 0.9, 0.999  # Adam's defaults
        mean = state["mean"].lerp_(grad, 1 - first)
        square = state["square"].mul_(second).addcmul_(grad, grad, value=1 - second)
        size = (square / (1 - second ** state["step"])).sqrt_().add_(1e-8)
        tensor.addcdiv_(mean, size, value=-rate / (1 - first ** state["step"]))


def is_matrix(tensor: torch.Tensor) -> bool:
    """Whether a tensor has at least two rows and two columns."""
    return tensor.ndim > 1 and min(len(tensor), tensor.numel() // max(len(tensor), 1)) > 1


def orthogonal(matrix: torch.Tensor) -> torch.Tensor:
    """About U Vᵀ of a matrix U S Vᵀ, `rows x columns`."""
    tall = matrix.shape[0] > matrix.shape[1]
    x = matrix.T if tall else matrix
    x = x / torch.linalg.vector_norm(x).clamp_min(_NORM_FLOOR)
    a, b, c = _SERIES
    for _ in range(_ROUNDS):
        square = x @ x.T
        x = torch.addmm(x, torch.addmm(square, square, square, beta=b, alpha=c), x, beta=a)
    return x.T if tall else x


def work_of(tensor: torch.Tensor) -> int:
    """Multiply-accumulates that a step takes besides the gradient."""
    if not is_matrix(tensor):
        return 0
    rows, columns = sorted((len(tensor), tensor[0].numel()))
    return _ROUNDS * (2 * rows * rows * columns + rows**3)

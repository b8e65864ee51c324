"""What is derived from the signature of a product, tried on numbers.

Where a rule contracts a letter that two operands share, the library takes the operation for a
product: it refits the weight, scores it, and expects means of the result. That holds if the
operation is linear in both, f(a x + b y) = a f(x) + b f(y), and adds its bias along the dimension
of the outputs. The rule of what is nothing of the kind (a distance, attention) says `linear=False`.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace

import numpy as np
import torch

from graphprune.core.errors import VerifyError
from graphprune.core.graph import Op, Value
from graphprune.engine.tensors import difference
from graphprune.rules.facts import found
from graphprune.rules.products import products
from graphprune.rules.readings import Reading, reading
from graphprune.rules.registry import stated
from graphprune.rules.site import said, shapes

Tensors = Sequence["torch.Tensor | None"]
Run = Callable[["list[torch.Tensor | None]"], "list[torch.Tensor]"]

_A, _B = 1.75, -0.625  # exact in any floating-point type; neither 0 nor 1, and of no special sum
_ROUNDING = 16.0  # several results are added up, each as inexact as one


def check_products(
    op: Op, operands: Tensors, run: Run, tolerance: float, rng: np.random.Generator
) -> None:
    """Check that an operation which is taken for a product is one.

    Args:
        op: The operation.
        operands: Its operands.
        run: Gives its results for operands.
        tolerance: Largest relative difference that rounding may cause in one result.
        rng: For other numbers in place of the operands'.

    Raises:
        VerifyError: It is not linear where its rule says so, or does not add its bias; names the
            operation, the signature, the shapes and the cause.
    """
    known = stated(op)
    told = found(op)
    if known.recurrent or known.activated or told.nonlinear or told.encodings:
        return  # the library reads no plain product there
    trial = _Trial(op, operands, run, tolerance * _ROUNDING, rng)
    for product in products(op):
        for value in (product.x, product.weight):
            trial.is_affine(op.inputs.index(value))
        stored = _stored(op, product.x)
        read = reading(stored)
        if isinstance(read, Reading):
            trial.is_read(read, stored.inputs)


def _stored(op: Op, x: Value) -> Op:
    """The operation as it is in a model: all that it takes, but what it reads, are weights."""
    held: list[Value | None] = [
        v if v is None or v is x else replace(v, kind="parameter") for v in op.inputs
    ]
    return replace(op, inputs=held)


class _Trial:
    def __init__(
        self, op: Op, operands: Tensors, run: Run, tolerance: float, rng: np.random.Generator
    ) -> None:
        self._op, self._operands, self._run = op, list(operands), run
        self._tolerance, self._rng = tolerance, rng

    def is_affine(self, place: int) -> None:
        """Whether the results are linear in an operand, but for what else is added to them."""
        self._same(place, 1 - _A, "f(a x + (1 - a) y) differs from a f(x) + (1 - a) f(y)", {})

    def is_read(self, read: Reading, held: Sequence[Value | None]) -> None:
        """Whether the result is W x + b, of some of these operands."""
        bias = None if read.bias is None else held.index(read.bias)
        without = {} if bias is None else {bias: self._zeros(bias)}
        for value in (read.source, read.weight):
            self._same(held.index(value), _B, "f(a x + b y) differs from a f(x) + b f(y)", without)
        if bias is not None:
            self._is_added(bias, read.output, without[bias])

    def _same(self, place: int, second: float, cause: str, fixed: dict[int, torch.Tensor]) -> None:
        given = self._operands[place]
        if given is None or not given.is_floating_point():
            return  # integers do not add up in their own type
        x, y = self._other(given), self._other(given)
        wanted = [
            _A * a + second * b
            for a, b in zip(
                self._results({**fixed, place: x}), self._results({**fixed, place: y}), strict=True
            )
        ]
        got = self._results({**fixed, place: _A * x + second * y})
        gap = max((difference(a, b) for a, b in zip(wanted, got, strict=True)), default=0.0)
        if gap > self._tolerance:
            self._fail(
                gap,
                f"it contracts what two operands share, so it is taken to be linear in both, but "
                f"as a function of operand {place} {cause} by {gap:.3g}: state linear=False beside "
                f"the rule, or activated=True where only an activation follows",
            )

    def _is_added(self, place: int, output: int, zeros: torch.Tensor) -> None:
        bias = self._other(zeros)
        plain, more = self._results({place: zeros})[0], self._results({place: bias})[0]
        view = [1] * plain.dim()
        view[output] = -1
        gap = difference(plain + bias.reshape(view), more)
        if gap > self._tolerance:
            self._fail(
                gap,
                f"operand {place} is taken for a bias, but is not added along dimension "
                f"{output % plain.dim()} of the result: it differs by {gap:.3g}",
            )

    def _results(self, changed: dict[int, torch.Tensor]) -> list[torch.Tensor]:
        operands = [changed.get(i, tensor) for i, tensor in enumerate(self._operands)]
        return [x for x in self._run(operands) if x.is_floating_point()]

    def _other(self, given: torch.Tensor) -> torch.Tensor:
        return torch.as_tensor(self._rng.standard_normal(given.shape), dtype=given.dtype)

    def _zeros(self, place: int) -> torch.Tensor:
        given = self._operands[place]
        assert given is not None
        return torch.zeros_like(given)

    def _fail(self, gap: float, cause: str) -> None:
        what = f"is wrong on the shapes {shapes(self._op)}: {cause}"
        raise VerifyError(said(self._op, found(self._op).text, what), self._op.name, gap)

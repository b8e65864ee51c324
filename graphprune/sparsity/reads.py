"""reads: what each number of a layer's matrix is multiplied with, in rows.

A convolution reads every channel at every kernel position. To see them all, the operation itself
runs with a kernel that hands each of them on: whatever its strides, padding and groups are, and
whichever frontend it came from.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from math import prod

import torch

from graphprune.compensation.consumer import Consumer, Unsolvable
from graphprune.compensation.layout import Layout
from graphprune.core.graph import Value
from graphprune.core.groups import Dependencies
from graphprune.engine.run import Attrs
from graphprune.rules.readings import Reading, reading
from graphprune.sparsity.layers import View
from graphprune.statistics.moments import Moments, share_of, thinned

WIDEST = 8192
"""Columns of a matrix that are solved for at once: the time grows with their cube."""

_PART = 1 << 26  # numbers of rows that are held at once


class Reads:
    """Gathers what layers read.

    Args:
        deps: The analysis.
        attrs: Attributes for the number of samples in a chunk.
        size: Samples in a chunk.
        dtype: Floating-point type to compute in.
    """

    def __init__(self, deps: Dependencies, attrs: Attrs, size: int, dtype: torch.dtype) -> None:
        self._deps = deps
        self._attrs = attrs
        self._size = size
        self._dtype = dtype

    def gather(
        self,
        consumer: Consumer,
        view: View,
        pairs: Sequence[tuple[torch.Tensor, torch.Tensor]],
        into: Moments,
    ) -> None:
        """Add what a consumer reads to moments: of the original, and of the sparse model.

        Args:
            consumer: The consumer.
            view: Its weight as a matrix.
            pairs: The value that it reads, chunk by chunk, in both.
            into: The moments.

        Raises:
            Unsolvable: It reads too much, or what it reads cannot be told.
        """
        if view.columns > WIDEST:
            raise Unsolvable(f"its {view.columns} columns are more than {WIDEST}")
        share = 0.0
        plain = Layout(view.groups, 1, view.channels, 1)
        after = None if view.kernel else plain.behind(self._deps, consumer)
        for dense, small in pairs:
            if dense.shape != small.shape:
                raise Unsolvable("the sparse model reads it at other places than the original")
            for a, b in self._parts(dense, small, consumer, view):
                wanted = self._rows(consumer, view, a)
                found = wanted if b is a else self._rows(consumer, view, b)
                samples = self._size * len(a) // max(len(dense), 1) if a.dim() else self._size
                into.sampled(found, max(samples, 1), after)
                share = share or share_of(
                    wanted.shape[1] * len(pairs) * self._size // max(samples, 1), view.columns
                )
                fewer = thinned(found, share)
                into.add(fewer if found is wanted else thinned(wanted, share), fewer)

    def _parts(
        self, dense: torch.Tensor, small: torch.Tensor, consumer: Consumer, view: View
    ) -> Iterator[tuple[torch.Tensor, torch.Tensor]]:
        """Both values, so many samples at a time that their rows fit into memory."""
        each = dense[:1].numel() * prod(view.kernel)
        number = max(_PART // max(each, 1), 1)
        if not view.kernel or number >= len(dense) or consumer.channel % dense.dim() == 0:
            yield dense, small
            return
        if small is dense:
            yield from ((part, part) for part in torch.split(dense, number))
        else:
            yield from zip(torch.split(dense, number), torch.split(small, number), strict=True)

    def _rows(self, consumer: Consumer, view: View, x: torch.Tensor) -> torch.Tensor:
        """`groups x rows x columns`."""
        if prod(view.kernel) == 1:
            return Layout(view.groups, 1, view.channels, 1).rows(x, consumer.channel)
        found = reading(consumer.op)
        if not isinstance(found, Reading) or not found.ends:
            raise Unsolvable("an activation is part of the operation")
        operands = [self._operand(consumer, view, value, x) for value in consumer.op.inputs]
        changed = self._attrs.get(consumer.op, {})
        evaluate = self._deps.source.engine.evaluate
        (y, *_) = evaluate(consumer.op, operands, changed, self._dtype)
        return Layout(view.groups, 1, view.columns, 1).rows(y, found.output)

    def _operand(
        self, consumer: Consumer, view: View, value: Value | None, x: torch.Tensor
    ) -> torch.Tensor | None:
        if value is consumer.value:
            return x
        if value is consumer.weight:
            return self._handing_on(view).to(x)
        return None if value is None else x.new_zeros(view.groups * view.columns)  # a bias

    @staticmethod
    def _handing_on(view: View) -> torch.Tensor:
        """A kernel with one output for each column, which is what the column is multiplied with."""
        one = torch.eye(view.columns).repeat(view.groups, 1)
        outputs = view.columns if view.inner == 0 else view.groups * view.columns
        shape = list(view.shape)
        shape[1 - view.inner] = outputs
        return View(tuple(shape), view.inner, view.groups).weight(one)

"""How a consumer's channels are arranged for one least-squares problem, or one for each group."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from math import prod

import numpy as np
import torch

from graphprune.compensation.constants import ROWS_EACH, TOGETHER_LEAST, WIDEST
from graphprune.compensation.consumer import Consumer, Unsolvable
from graphprune.compensation.rounding import Steps
from graphprune.core.axes import Dim, leaves, length
from graphprune.core.cuts import Cuts
from graphprune.core.graph import Op
from graphprune.core.groups import Dependencies
from graphprune.core.indices import Indices
from graphprune.rules.reach import reach
from graphprune.statistics.moments import Moments, observed
from graphprune.statistics.order import behind
from graphprune.statistics.samples import Samples


@dataclass(frozen=True)
class Layout:
    """A dimension of channels as `groups x before x width x after`.

    Each group of a grouped convolution is a least-squares problem of its own, over `width`
    channels. All positions `before` and `after` share its solution; mostly there is one of each.

    Where `beside` is told, groups stand along that dimension of a value, ahead of the channels: the
    directions of a recurrent layer, experts.

    Example:
        A linear layer reads a flattened picture of 64 channels, 7 x 7. As one problem it has 3,136
        channels: `Layout(1, 1, 3136, 1)`. Where samples are too few for that, the 49 positions
        share one solution of 64 channels: `Layout(1, 1, 64, 49)`.
    """

    groups: int
    before: int
    width: int
    after: int
    beside: int | None = None

    def rows(self, x: torch.Tensor, channel: int) -> torch.Tensor:
        """A value as rows for least squares.

        Args:
            x: A value that holds these channels, or fewer of them in each group.
            channel: Its dimension that holds them.

        Returns:
            `groups x rows x channels`, one row for each place of the value.
        """
        if self.beside is None:
            x = x.movedim(channel, -1)
        else:
            x = x.movedim((self.beside, channel), (-2, -1)).flatten(-2)
        x = x.reshape(-1, self.groups, self.before, x.shape[-1] // self._rest, self.after)
        return x.permute(1, 0, 2, 4, 3).flatten(1, 3)

    def observed(
        self,
        pairs: Iterable[tuple[torch.Tensor, torch.Tensor]],
        deps: Dependencies,
        consumer: Consumer,
        samples: Samples,
        into: Moments | None = None,
    ) -> Moments:
        """The moments of targets and inputs of each chunk, as `rows` gives them.

        Args:
            pairs: Targets and inputs, chunk by chunk.
            deps: The analysis.
            consumer: What reads them.
            samples: The samples that they are from.
            into: The moments they are added to; new ones where there are none.
        """
        moments = Moments(samples.worth) if into is None else into
        if consumer.runs is not None:  # rows of different samples, in any order
            return observed(pairs, None, moments)
        return observed(pairs, samples.size, moments, self.behind(deps, consumer))

    def behind(self, deps: Dependencies, consumer: Consumer) -> int | None:
        """How many of these rows lie behind each sample; None where samples come first."""
        places = behind(deps, consumer.value, consumer.channel)
        return None if places is None else places * self.before * self.after

    @property
    def _rest(self) -> int:
        return self.groups * self.before * self.after

    def spread(self, taps: torch.Tensor) -> torch.Tensor:
        """A weight arranged alike: positions become taps.

        Args:
            taps: `groups x outputs x (before * width * after) x taps`.

        Returns:
            `groups x outputs x width x (before * after * taps)`.
        """
        g, o, i, k = taps.shape
        parts = taps.reshape(g, o, self.before, i // (self.before * self.after), self.after, k)
        return parts.permute(0, 1, 3, 2, 4, 5).flatten(3)

    def gathered(self, spread: torch.Tensor) -> torch.Tensor:
        """The inverse of `spread`."""
        g, o, n, _ = spread.shape
        parts = spread.reshape(g, o, n, self.before, self.after, -1)
        return parts.permute(0, 1, 3, 2, 4, 5).flatten(2, 4)


@dataclass(frozen=True)
class Place:
    """A consumer's channels, and which of them stay.

    Attributes:
        how: The layout of the channels.
        groups: Numbers of its groups that stay.
        kept: Numbers of the channels that stay within each group.
    """

    how: Layout
    groups: torch.Tensor
    kept: torch.Tensor

    def rows(self, x: torch.Tensor, channel: int) -> torch.Tensor:
        """A value of the original as `groups x rows x channels`, for the groups that stay."""
        return self.how.rows(x, channel)[self.groups]

    def fewer(self, x: torch.Tensor, channel: int) -> torch.Tensor:
        """A value of the narrowed graph as `groups x rows x kept`."""
        return replace(self.how, groups=len(self.groups)).rows(x, channel)

    def reach(self, consumer: Consumer, ops: Sequence[Op]) -> torch.Tensor | None:
        """How often each number of a consumer's weight meets an input.

        Args:
            consumer: The consumer.
            ops: The operations of the graph.

        Returns:
            Shares of the output positions, `groups x outputs x width x taps`; None where each
            number meets an input everywhere.
        """
        if not consumer.kernel:
            return None
        users = [op for op in ops if consumer.weight in op.inputs]
        shares = reach(users, consumer.kernel, consumer.weight_is_transposed)
        if shares is None:
            return None
        whole = shares.expand(consumer.weight.shape)
        return self.how.spread(consumer.taps(whole))[self.groups]

    def steps(self, consumer: Consumer, cuts: Cuts) -> Steps | None:
        """What a weight's integers can stand for, as `refit` takes its numbers; None of others.

        Args:
            consumer: The consumer.
            cuts: What was removed.
        """
        told = None if consumer.written is None else consumer.written.steps()
        if told is None:
            return None
        stays = told.stays.clone()
        for dim, indices in enumerate(cuts.kept(consumer.weight)):
            if indices is not None and dim != consumer.inner:
                gone = torch.ones(stays.shape[dim], dtype=torch.bool)
                gone[torch.as_tensor(indices)] = False
                stays.movedim(dim, 0)[gone] = False
        which, least, most, stays = (
            self.how.spread(consumer.taps(x))[self.groups]
            for x in (told.which, told.least, told.most, stays)
        )
        return Steps(told.scales, which, least, most, stays, consumer.step is not None)


def layout(consumer: Consumer, dim: Dim, cuts: Cuts | None, rows: int) -> Layout | None:
    """How to arrange a consumer's channels.

    All channels are one problem, unless there are too many for it or for the rows. The positions of
    a flattened picture then share one solution, over the widest axis; not where some of the
    positions are removed.

    Args:
        consumer: The consumer.
        dim: The dimension that it sums over.
        cuts: What was removed; None for the original.
        rows: Number of rows of statistics.

    Returns:
        None where the channels are more than `WIDEST` whatever the arrangement.
    """
    size = length(dim)
    if consumer.beside is not None or consumer.runs is not None:
        beside = consumer.beside or 0  # runs stand in front
        return Layout(consumer.groups, 1, size, 1, beside) if size <= WIDEST else None
    if consumer.groups > 1:
        return Layout(consumer.groups, 1, size // consumer.groups, 1)
    factors = leaves(dim)
    most = min(WIDEST, max(rows // ROWS_EACH, TOGETHER_LEAST))
    together = Layout(1, 1, size, 1) if size <= WIDEST else None
    if size <= most or len(factors) == 1:
        return together
    sizes = [axis.size for axis in factors]
    widest = int(np.argmax([axis.size if axis.reason is None else 0 for axis in factors]))
    others = [(axis,) for i, axis in enumerate(factors) if i != widest]
    if sizes[widest] > WIDEST or (
        cuts is not None and any(cuts.touches(other) for other in others)
    ):
        return together
    return Layout(1, prod(sizes[:widest]), sizes[widest], prod(sizes[widest + 1 :]))


def kept_channels(consumer: Consumer, dim: Dim, how: Layout, cuts: Cuts) -> tuple[Indices, Indices]:
    """The groups and channels of a layout that stay.

    Args:
        consumer: The consumer.
        dim: The dimension that it sums over.
        how: The arrangement of its channels.
        cuts: What was removed.

    Returns:
        Numbers of the groups that stay, and of the channels that stay within each.

    Raises:
        Unsolvable: Different channels stay in different groups or at different positions.
    """
    kept = cuts.kept(consumer.value)[consumer.channel]
    if kept is None:
        kept = np.arange(length(dim))
    if how.beside is not None:
        held = None if consumer.beside is None else cuts.kept(consumer.value)[consumer.beside]
        return np.arange(how.groups) if held is None else held, kept
    places = kept.reshape(-1)
    group, rest = np.divmod(places, how.before * how.width * how.after)
    channel = rest // how.after % how.width
    groups, channels = np.unique(group), np.unique(channel)
    if len(groups) * len(channels) * how.before * how.after != len(places):
        raise Unsolvable("other channels stay in each of its groups")
    return groups, channels

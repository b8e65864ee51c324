"""offers: the layers that can become two, what either costs, and why others stay whole."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass, field

from graphprune.core.axes import Axis, Dim, atom, leaves, length
from graphprune.core.graph import Op, Value
from graphprune.core.groups import Dependencies, Group, Member
from graphprune.rules.readings import Reading, reading
from graphprune.sparsity.layers import Layer, find_layers
from graphprune.sparsity.patterns import Pattern

_SEVERAL = "several operations read it"
_NO_LAYER = "what reads it is no linear layer or convolution alone"

Unsplit = Callable[[Mapping[Value, Op]], Mapping[Value, str]]
"""Tells which weights cannot become two, with the reason (`Program.unsplit`)."""


@dataclass(frozen=True, eq=False)
class Offer:
    """A layer that can become two, `outputs x columns` in each of its groups.

    Attributes:
        layer: The layer.
        op: The only operation that reads it.
    """

    layer: Layer
    op: Op

    @property
    def weight(self) -> Value:
        """Its weight."""
        return self.layer.weight

    @property
    def full(self) -> int:
        """The rank at which the two compute whatever the one can."""
        return min(self.layer.view.outputs, self.layer.view.columns)

    @property
    def saving(self) -> int:
        """The highest rank r that saves parameters: r (m + n) < m n."""
        view = self.layer.view
        return (view.outputs * view.columns - 1) // (view.outputs + view.columns)

    def group(self, number: int) -> Group:
        """Channels between the two layers as a group: one more than can be stands for one layer.

        Args:
            number: The group's place among others.
        """
        (axis,) = atom(self.saving + 1)
        member = Member(self.weight, 1 - self.layer.view.inner)
        return Group(number, axis, (member,), label="rank")

    def params(self, deps: Dependencies, rank: Dim) -> tuple[list[tuple[Dim, ...]], ...]:
        """Parameters as products of dimensions: of the one layer, and of the two.

        Args:
            deps: The analysis.
            rank: Channels between the two.
        """
        view, dims = self.layer.view, deps.dims[self.weight]
        groups = atom(view.groups, "groups")
        first, second, *taps = dims
        if view.inner:
            two = [(groups, rank, second, *taps), (first, rank)]
        else:
            two = [(rank, first, *taps), (groups, second, rank)]
        return [tuple(dims)], two

    def macs(self, deps: Dependencies, rank: Dim) -> tuple[list[tuple[Dim, ...]], ...]:
        """The same of multiply-accumulates."""
        view = self.layer.view
        one = deps.effects[self.op].macs
        outputs = leaves(deps.dims[self.weight][1 - view.inner])
        fewer = []
        for product in one:
            held = (i for i, dim in enumerate(product) if self._outputs(dim, outputs))
            at = next(held, len(product))  # once: inputs may have the outputs' axis
            fewer.append((*product[:at], rank, *product[at + 1 :]))
        return one, [*fewer, (*deps.dims[self.op.outputs[0]], rank)]

    def _outputs(self, dim: Dim, outputs: list[Axis]) -> bool:
        """Whether a dimension is that of the outputs, of one group where there are groups."""
        own = leaves(dim)
        return length(dim) == self.layer.view.outputs and own == outputs[-len(own) :]


@dataclass
class Offers:
    """The layers of a model that can become two.

    Attributes:
        offers: They, in the order in which they are read.
        left: Weights that stay whole although two would cost less, with the reason.
    """

    offers: list[Offer] = field(default_factory=list)
    left: dict[str, str] = field(default_factory=dict)


def find_offers(deps: Dependencies, unsplit: Unsplit, keep: Collection[str] = ()) -> Offers:
    """Find the layers that can become two.

    Args:
        deps: The analysis.
        unsplit: Tells which weights cannot become two.
        keep: Name patterns of what stays as it is.
    """
    found = find_layers(deps, Pattern(), keep)
    out = Offers(left=dict(found.left))
    able: list[Offer] = []
    uses = Counter(v for op in deps.source.ops for v in op.inputs)
    for layer in found.layers:
        offer = Offer(layer, layer.ops[0])
        if not _matrix(layer):
            out.left[layer.weight.name] = _NO_LAYER
        elif offer.saving < 1:
            continue
        elif uses[layer.weight] > 1:
            out.left[layer.weight.name] = _SEVERAL
        else:
            able.append(offer)
    refused = unsplit({offer.weight: offer.op for offer in able})
    out.left.update({weight.name: why for weight, why in refused.items()})
    out.offers = [offer for offer in able if offer.weight not in refused]
    return out


def _matrix(layer: Layer) -> bool:
    """Whether the operation is `y = W x + b` with the weight as a matrix, and nothing behind it."""
    read = reading(layer.ops[0])
    return layer.view.plain and isinstance(read, Reading) and read.ends

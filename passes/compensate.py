"""compensate: let the weights that stay make up for the channels that go.

The original and the narrowed graph run side by side over the samples, operation by operation.
Where a linear operation reads channels that differ between the two, its weights are solved for:

    W ← W_dense B,  b ← b + W_dense (μ_dense - B μ_kept),
    B = argmin E|x_dense - B x_kept - c|²

The target is the original's activation, so that errors do not add up from layer to layer. B is
drawn towards the plain removal of channels where the samples tell little. Where a result takes
no constant (no bias, no batch norm behind), the fit goes through zero.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field, replace

import torch

from graphprune.consumers import Consumer, Layout, find_consumers, kept_channels, layout
from graphprune.frontends.execute import cut_tensor
from graphprune.graph import Op, Value
from graphprune.moments import Moments, observed
from graphprune.passes.expect import foretell
from graphprune.passes.narrow import Cuts
from graphprune.samples import Samples
from graphprune.sweep import Sweep, resized

_DAMPING = 1e-3  # of the mean variance of the channels that stay, at least
_WIDE = 512  # channels, from which on float32 is precise enough beside the damping
_USUAL = 0.1  # of what goes is commonly left unexplained


@dataclass
class Compensation:
    """New values for the weights of a narrowed graph.

    Attributes:
        values: Tensors in the narrowed shapes.
        left: Operations that read fewer channels and were left as they are, with the reason.
    """

    values: dict[Value, torch.Tensor] = field(default_factory=dict)
    left: dict[str, str] = field(default_factory=dict)


def compensate(
    cuts: Cuts, samples: Samples, advance: Callable[[float], None] = lambda _: None
) -> Compensation:
    """Solve for the weights that stay.

    Args:
        cuts: The narrowed graph.
        samples: Inputs to take statistics from.
        advance: Called with the share of the work that is done.
    """
    return _Compensator(cuts, samples).run(advance)


class _Compensator:
    def __init__(self, cuts: Cuts, samples: Samples) -> None:
        self._cuts = cuts
        self._deps = cuts.deps
        self._consumers = find_consumers(cuts.deps)
        self._out = Compensation()
        graph, chunks, batch = cuts.deps.source, samples.chunks, samples.size
        double = graph.run is None and any(v.dtype == "float64" for v in graph.parameters())
        dtype = torch.float64 if double else torch.float32
        self._samples = samples
        self._shifts: dict[Value, torch.Tensor] = {}
        attrs = resized(self._deps, {}, batch)
        self._dense = Sweep(graph, samples.weight, chunks, attrs, dtype)
        attrs = resized(self._deps, cuts.keep, batch)
        self._small = Sweep(graph, self._weight, chunks, attrs, dtype)
        self._differs: set[Value] = set()

    def run(self, advance: Callable[[float], None]) -> Compensation:
        ops = self._deps.source.ops
        self._samples.meet(self._deps.source.inputs, self._dense)
        for number, op in enumerate(ops):
            differs = self._reads_fewer(op) or any(v in self._differs for v in op.inputs)
            self._dense.step(op)
            self._samples.meet(op.outputs, self._dense)
            if differs:
                self._solve_for(op)
                self._differs.update(op.outputs)
            self._small.step(op)
            for sweep in (self._dense, self._small):
                sweep.release(op)
            advance((number + 1) / len(ops))
        return self._out

    def _weight(self, value: Value) -> torch.Tensor:
        """A weight of the narrowed graph as the samples should meet it."""
        if value in self._out.values and value not in self._samples.statistics:
            return self._out.values[value]
        cut = cut_tensor(self._samples.weight(value), self._cuts.weights.get(value, ()))
        return cut + self._shifts[value].to(cut.dtype) if value in self._shifts else cut

    def _reads_fewer(self, op: Op) -> bool:
        effect = self._deps.effects[op]
        return any(self._cuts.touches(dim) for dim in [*effect.contracts, *effect.mixes])

    def _solve_for(self, op: Op) -> None:
        consumers = self._consumers.by_op.get(op)
        if not consumers:
            contracts = self._deps.effects[op].contracts
            if any(self._cuts.touches(dim) for dim in contracts):
                why = self._consumers.left.get(op.name, "both of its operands are computed")
                self._out.left[op.name] = why
            return
        for consumer in consumers:
            try:
                self._solve(consumer)
            except (ValueError, RuntimeError) as error:  # of which LinAlgError is one
                self._out.left[op.name] = str(error).splitlines()[0]

    def _solve(self, consumer: Consumer) -> None:
        dim = self._deps.dims[consumer.source][consumer.channel]
        dense = self._dense.values(consumer.source)
        if consumer.source in consumer.op.outputs:  # recurrent: what stays will be as it was
            cut = self._cuts.kept(consumer.source)
            small = [cut_tensor(x, cut) for x in dense]
        else:
            small = self._small.values(consumer.source)
        rows = sum(x.numel() // max(x.shape[consumer.channel], 1) for x in dense)
        how = layout(consumer, dim, self._cuts, rows)
        if how is None:
            raise ValueError("it reads too many channels at once")
        groups, channels = kept_channels(consumer, dim, how, self._cuts)
        fewer = replace(how, groups=len(groups))
        picked = torch.as_tensor(groups)
        pairs = (
            (how.rows(x, consumer.channel)[picked], fewer.rows(y, consumer.channel))
            for x, y in zip(dense, small, strict=True)
        )
        moments = observed(pairs, self._samples.size, self._samples.worth)
        kept = torch.as_tensor(channels)
        foretell(moments, self._deps, self._samples, consumer, how, (picked, kept))
        old = consumer.weight.tensor.detach()
        exact = old.dtype == torch.float64 or how.width < _WIDE
        taps = consumer.taps(old.double() if exact else old.float())
        weight = how.spread(taps)[picked]
        found = refit(weight, moments, kept, consumer.shifts)
        if not all(bool(torch.isfinite(part).all()) for part in found):
            raise ValueError("its inputs are not finite")
        self._apply(consumer, how, picked, *found)

    def _apply(
        self,
        consumer: Consumer,
        how: Layout,
        groups: torch.Tensor,
        new: torch.Tensor,
        added: torch.Tensor,
    ) -> None:
        """Store the solved weights, cut to the outputs that stay."""
        old = consumer.weight.tensor
        kept: list[object] = list(self._cuts.weights.get(consumer.weight, [None] * old.dim()))
        outputs = self._outputs_within(consumer, groups)
        weight = consumer.weight_of(how.gathered(new), consumer.kernel)
        kept[consumer.inner] = None
        if consumer.inner == 1:
            kept[0] = outputs
        self._out.values[consumer.weight] = cut_tensor(weight, kept).to(old.dtype).contiguous()
        if consumer.shifts:
            self._shift(consumer, added.flatten(), outputs)

    def _outputs_within(self, consumer: Consumer, groups: torch.Tensor) -> torch.Tensor | None:
        """Positions of the outputs that stay among those of the groups that stay."""
        dim = 0 if consumer.inner == 1 else 1
        kept = self._cuts.weights.get(consumer.weight, [None, None])[dim]
        if kept is None or consumer.groups == 1 or consumer.inner == 0:
            return None if kept is None else torch.as_tensor(kept)
        each = consumer.weight.shape[0] // consumer.groups
        places = torch.full((consumer.groups,), -1)
        places[groups] = torch.arange(len(groups))
        index = torch.as_tensor(kept)
        return places[index // each] * each + index % each

    def _shift(self, consumer: Consumer, added: torch.Tensor, outputs: torch.Tensor | None) -> None:
        """Add a constant to every output, through the bias or the batch norm behind."""
        if outputs is not None:
            if consumer.inner == 0 and consumer.groups > 1:  # the same of each group
                each = consumer.weight.shape[1]
                starts = torch.arange(0, len(added), each)
                outputs = (starts[:, None] + outputs).flatten()
            added = added[outputs.to(added.device)]
        if consumer.bias is not None:
            held, sign = consumer.bias, 1.0
        else:
            assert consumer.norm is not None and consumer.norm.inputs[3] is not None
            held, sign = consumer.norm.inputs[3], -1.0
        old = cut_tensor(held.tensor.detach(), self._cuts.weights.get(held, ()))
        self._shifts[held] = sign * added
        self._out.values[held] = (old.double() + sign * added).to(old.dtype)


def refit(
    weight: torch.Tensor, moments: Moments, kept: torch.Tensor, shifts: bool
) -> tuple[torch.Tensor, torch.Tensor]:
    """The weights that make most of the channels that stay, in least squares.

    A ridge draws them to the plain removal of channels, the more so the fewer the rows and the less
    they explain of the channels that go (Hoerl, Kennard & Baldwin, 1975).

    Args:
        weight: Of the original, `groups x outputs x channels x taps`.
        moments: Of the original's channels (targets) and of those that stay (inputs).
        kept: Which of the original's channels those are.
        shifts: Whether a constant may be added.

    Returns:
        W B, `groups x outputs x kept x taps`, and what is added to the outputs,
        `groups x outputs`.
    """
    cross, own = (m.to(weight.dtype) for m in moments.second(central=shifts))
    share = _share(moments, cross, own, kept, shifts)
    rest = cross.clone()
    rest[:, kept] -= own
    weight = weight.to(own.device)
    flat = weight.transpose(2, 3).flatten(1, 2)
    if flat.shape[1] < flat.shape[2]:  # the fewer systems are solved
        changes = _solved(own, flat @ rest, share)
    else:
        changes = flat @ _solved(own, rest, share)
    groups, outputs, _, taps = weight.shape
    new = (flat[:, :, kept] + changes).reshape(groups, outputs, taps, -1).transpose(2, 3)
    if not shifts:
        return new, new.new_zeros(new.shape[:2])
    targets, inputs = (m.to(new.dtype) for m in moments.means())
    wanted, found = weight.sum(3) @ targets[..., None], new.sum(3) @ inputs[..., None]
    return new, (wanted - found)[..., 0]


def _share(
    moments: Moments, cross: torch.Tensor, own: torch.Tensor, kept: torch.Tensor, shifts: bool
) -> torch.Tensor:
    """The ridge of each group, as a share of the mean variance of the channels that stay."""
    least = torch.full_like(own[:, 0, 0], _DAMPING)
    share = moments.scarcity().clamp_max(1.0).to(own.dtype)
    if not bool((share > _DAMPING).any()):
        return least
    gone = torch.ones(cross.shape[1], dtype=torch.bool).index_fill(0, kept, False).to(own.device)
    power = moments.power(central=shifts)[:, gone].sum(1).to(own.dtype)
    explained = _explained(own, cross[:, gone], least)
    left = (1 - explained / power.clamp_min(1e-30)).clamp_min(0.0)
    return (share * (left / _USUAL).clamp_max(1.0)).clamp_min(_DAMPING)


def _factored(own: torch.Tensor, share: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor | None]:
    """Second moments, a share of their mean added to the variances, and their Cholesky factor.

    There is none where rounding has left them indefinite.
    """
    damped = own.clone()
    ridge = share * own.diagonal(dim1=1, dim2=2).mean(1) + 1e-12
    damped.diagonal(dim1=1, dim2=2).add_(ridge[:, None])
    factor, failed = torch.linalg.cholesky_ex(damped)
    return damped, None if failed.any() else factor


def _explained(own: torch.Tensor, cross: torch.Tensor, share: torch.Tensor) -> torch.Tensor:
    """How much of the targets' power follows from the inputs, for each group."""
    damped, factor = _factored(own, share)
    right = cross.transpose(1, 2)
    if factor is None:
        found: torch.Tensor = torch.linalg.solve(damped, right) * right
    else:
        found = torch.linalg.solve_triangular(factor, right, upper=False).square()
    return found.sum((1, 2))


def _solved(own: torch.Tensor, cross: torch.Tensor, share: torch.Tensor) -> torch.Tensor:
    """`cross` times the inverse of the damped second moments."""
    damped, factor = _factored(own, share)
    right = cross.transpose(1, 2)
    if factor is None:
        found: torch.Tensor = torch.linalg.solve(damped, right)
    else:
        found = torch.cholesky_solve(right, factor)
    return found.transpose(1, 2)

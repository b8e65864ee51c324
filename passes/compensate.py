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
from graphprune.passes.narrow import Cuts
from graphprune.samples import Samples
from graphprune.sweep import Sweep, resized

_DAMPING = 1e-3  # of the mean variance of the channels that stay, at least
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
            kept = self._cuts.kept(consumer.source)
            small = [cut_tensor(x, kept) for x in dense]
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
        solution, shift = fit(moments, torch.as_tensor(channels), consumer.shifts)
        self._apply(consumer, how, picked, solution, shift)

    def _apply(
        self,
        consumer: Consumer,
        how: Layout,
        groups: torch.Tensor,
        solution: torch.Tensor,
        shift: torch.Tensor,
    ) -> None:
        """Store the solved weights, cut to the outputs that stay."""
        old = consumer.weight.tensor.detach()
        spread = how.spread(consumer.taps(old.double()))[groups]
        new = torch.einsum("gont,gnp->gopt", spread, solution.to(spread.device))
        added = torch.einsum("gont,gn->go", spread, shift.to(spread.device)).flatten()
        if not bool(torch.isfinite(new).all() and torch.isfinite(added).all()):
            raise ValueError("its inputs are not finite")
        kept: list[object] = list(self._cuts.weights.get(consumer.weight, [None] * old.dim()))
        outputs = self._outputs_within(consumer, groups)
        weight = consumer.weight_of(how.gathered(new), consumer.kernel)
        kept[consumer.inner] = None
        if consumer.inner == 1:
            kept[0] = outputs
        self._out.values[consumer.weight] = cut_tensor(weight, kept).to(old.dtype).contiguous()
        if consumer.shifts:
            self._shift(consumer, added, outputs)

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


def fit(moments: Moments, kept: torch.Tensor, shifts: bool) -> tuple[torch.Tensor, torch.Tensor]:
    """The linear map from the channels that stay to all channels, in least squares.

    A ridge draws the solution to the identity on the channels that stay, the more so the fewer the
    rows and the less they explain of the channels that go (Hoerl, Kennard & Baldwin, 1975).

    Args:
        moments: Of the original's channels (targets) and of those that stay (inputs).
        kept: Which of the original's channels those are.
        shifts: Whether a constant may be added.

    Returns:
        B, `groups x channels x kept`, and c, `groups x channels`.
    """
    cross, own = moments.second(central=shifts)
    solution = _ridge(cross, own, kept, torch.full_like(own[:, 0, 0], _DAMPING))
    share = moments.scarcity()
    if bool((share > _DAMPING).any()):
        gone = (
            torch.ones(cross.shape[1], dtype=torch.bool).index_fill(0, kept, False).to(own.device)
        )
        power = moments.power(central=shifts)[:, gone].sum(1)
        explained = (solution * cross)[:, gone].sum((1, 2))
        left = (1 - explained / power.clamp_min(1e-30)).clamp_min(0.0)
        share = (share * (left / _USUAL).clamp_max(1.0)).clamp_min(_DAMPING)
        solution = _ridge(cross, own, kept, share)
    if not shifts:
        return solution, torch.zeros(cross.shape[:2], dtype=cross.dtype)
    targets, inputs = moments.means()
    return solution, targets - torch.einsum("gnp,gp->gn", solution, inputs)


def _ridge(
    cross: torch.Tensor, own: torch.Tensor, kept: torch.Tensor, share: torch.Tensor
) -> torch.Tensor:
    """Least squares, drawn to the identity by a share of the mean variance for each group."""
    own, rest = own.clone(), cross.clone()
    rest[:, kept] -= own
    ridge = share * own.diagonal(dim1=1, dim2=2).mean(1) + 1e-12
    own.diagonal(dim1=1, dim2=2).add_(ridge[:, None])
    rest = rest.transpose(1, 2)
    factor, failed = torch.linalg.cholesky_ex(own)
    solved = torch.linalg.solve(own, rest) if failed.any() else torch.cholesky_solve(rest, factor)
    solution = solved.transpose(1, 2)
    solution[:, kept, torch.arange(len(kept))] += 1.0
    return solution

"""Published compensation methods, re-implemented here with one fixed setting each.

They share graphprune's coupled groups and budgets (the same fraction of every group), so that they
differ in what they do about the removed channels alone.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import numpy.typing as npt
import torch
from sklearn.cluster import KMeans
from torch import Tensor, nn

from accuracy.mapped import Array, Removal, by_norm, features
from accuracy.subject import Method, Subject
from graphprune.importance import Context

Source = Callable[[Subject], Tensor]
_DAMPING = 1e-2  # of the mean of the Gram matrix's diagonal


def merging(subject: Subject, of: str, ratio: float) -> nn.Module:
    """Neuron merging (Kim et al., NeurIPS 2020): a removed channel lives on in its most similar.

    Its readers' weights are added to those of the channel that stays with the largest cosine
    similarity, scaled by the ratio of their norms.
    """
    removal = Removal(subject, of, ratio, by_norm)
    maps: dict[int, Array] = {}
    for group, kept in _kept(removal):
        rows = features(Context(removal.deps), group)
        norms = np.linalg.norm(rows, axis=1) + 1e-12
        cosine = (rows @ rows.T) / np.outer(norms, norms)
        maps[group] = np.eye(len(rows))
        for gone in np.setdiff1d(np.arange(len(rows)), kept):
            near = kept[int(np.argmax(cosine[gone, kept]))]
            maps[group][near, gone] = norms[gone] / norms[near]
    removal.apply(maps)
    return removal.result()


def folding(subject: Subject, of: str, ratio: float) -> nn.Module:
    """Model folding (Wang et al., ICLR 2025) with its approximate repair, without data.

    k-means over the rows that write a group; a cluster becomes its mean, its readers' weights are
    summed, and the stored variance becomes that of a mean of channels with the mean correlation
    of the cluster's rows.
    """
    removal = Removal(subject, of, ratio, by_norm)
    reads: dict[int, Array] = {}
    writes: dict[int, Array] = {}
    spread: dict[int, Array] = {}
    for group, kept in _kept(removal):
        rows = features(Context(removal.deps), group)
        found = KMeans(len(kept), n_init=3, random_state=0).fit(rows)
        labels, centres = found.labels_, found.cluster_centers_
        n = len(rows)
        reads[group], writes[group], spread[group] = np.eye(n), np.eye(n), np.ones(n)
        chosen = []
        for cluster in range(len(kept)):
            own = np.flatnonzero(labels == cluster)
            if not len(own):
                continue
            near = own[np.argmin(np.square(rows[own] - centres[cluster]).sum(1))]
            chosen.append(near)
            writes[group][near] = 0
            writes[group][near, own] = 1 / len(own)
            reads[group][near, own] = 1
            unit = rows[own] / (np.linalg.norm(rows[own], axis=1, keepdims=True) + 1e-12)
            spread[group][near] = np.square(unit.mean(0)).sum()
        rest = np.setdiff1d(np.arange(n), chosen)[: len(kept) - len(chosen)]
        removal.repick(group, np.array([*chosen, *rest], dtype=np.int64))
    removal.apply(reads, writes)
    _repair(removal, spread)
    return removal.result()


def _repair(removal: Removal, spread: dict[int, Array]) -> None:
    """Scale the stored variances of folded channels."""
    for group in removal.deps.groups:
        for member in group.members:
            name = member.weight.name
            if name.endswith("running_var") and group.id in spread:
                for spots in removal.spots(group.id, name, 0):
                    scale = np.repeat(spread[group.id][:, None], spots.shape[1], 1)
                    by = torch.from_numpy(scale.ravel()).to(removal.weights[name].dtype)
                    removal.weights[name][torch.from_numpy(spots.ravel())] *= by


def grail(inputs: Source) -> Method:
    """GRAIL-like (Tang et al., CPAL 2026): ridge regression from the Gram matrices of one pass.

    Channels with the smallest norms go; every linear reader gets W G[:, kept] G[kept, kept]^-1
    of the original network's activations.
    """
    return lambda subject, of, ratio: _regressed(subject, of, ratio, inputs, by_norm)


def obspa(inputs: Source) -> Method:
    """OBSPA-like (Wang et al., Structurally Prune Anything, 2024): OBS scores of coupled groups.

    An index costs |W[:, i]|^2 / [G^-1]_ii, summed over its readers; they are updated as in
    Optimal Brain Surgeon, from the original network's activations.
    """

    def prune(subject: Subject, of: str, ratio: float) -> nn.Module:
        grams = _grams(subject.model, inputs(subject))

        def scores(context: Context) -> list[list[npt.NDArray[np.float64]]]:
            norms = by_norm(context)
            return [_obs(subject, context, g.id, grams) or norms[g.id] for g in context.deps.groups]

        return _regressed(subject, of, ratio, inputs, scores)

    return prune


def _obs(
    subject: Subject, context: Context, group: int, grams: dict[str, Tensor]
) -> list[npt.NDArray[np.float64]]:
    out = []
    removal = Removal.__new__(Removal)
    removal.model, removal.deps = subject.model, context.deps
    for member in context.deps.groups[group].members:
        name = member.weight.name
        if member.dim == 1 and removal.reader(name):
            gram = grams[name.rpartition(".")[0]]
            inverse = torch.linalg.inv(_damped(gram)).diagonal()
            weight = member.weight.tensor.detach().double().movedim(1, 0).flatten(1)
            cost = weight.square().sum(1) / inverse
            for spots in removal.spots(group, name, 1):
                out.append(cost[torch.from_numpy(spots)].sum(1).numpy())
    return out


def _regressed(
    subject: Subject,
    of: str,
    ratio: float,
    inputs: Source,
    importance: Callable[[Context], list[list[npt.NDArray[np.float64]]]],
) -> nn.Module:
    removal = Removal(subject, of, ratio, importance)
    grams = _grams(subject.model, inputs(subject))
    for weight, kept in removal.plan.kept.items():
        owner = weight.rpartition(".")[0]
        if len(kept) < 2 or kept[1] is None or not removal.reader(weight):
            continue
        index = torch.from_numpy(np.asarray(kept[1]))
        gram = _damped(grams[owner])
        back = torch.linalg.solve(gram[index][:, index], gram[index])  # kept x channels
        old = removal.weights[weight]
        removal.weights[weight] = old.clone()
        new = torch.einsum("kn,on...->ok...", back, old.double()).to(old.dtype)
        removal.weights[weight][:, index] = new
    return removal.result()


def _grams(model: nn.Module, inputs: Tensor) -> dict[str, Tensor]:
    """Uncentred second moments of what every linear layer and convolution reads."""
    out: dict[str, Tensor] = {}

    def watch(name: str) -> Callable[[nn.Module, tuple[Tensor, ...]], None]:
        def hook(module: nn.Module, args: tuple[Tensor, ...]) -> None:
            x = args[0].movedim(1, -1) if isinstance(module, nn.Conv2d) else args[0]
            rows = x.reshape(-1, x.shape[-1]).double()
            out[name] = rows.T @ rows / len(rows)

        return hook

    kinds = (nn.Linear, nn.Conv2d)
    named = [(name, module) for name, module in model.named_modules() if isinstance(module, kinds)]
    handles = [module.register_forward_pre_hook(watch(name)) for name, module in named]
    try:
        with torch.no_grad():
            model(inputs)
    finally:
        for handle in handles:
            handle.remove()
    return out


def _damped(gram: Tensor) -> Tensor:
    ridge = _DAMPING * gram.diagonal().mean() + 1e-12
    return gram + ridge * torch.eye(len(gram), dtype=gram.dtype)


def _kept(removal: Removal) -> list[tuple[int, npt.NDArray[np.int64]]]:
    return [(i, g.keep) for i, g in enumerate(removal.plan.groups) if g.keep is not None]

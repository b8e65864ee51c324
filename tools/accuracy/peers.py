"""Other tools, as their users call them: Torch-Pruning, and ModelOpt where it is installed."""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from torch import nn

from accuracy.subject import Method, Subject

_ROUNDS = 8  # of the bisection to a budget


def torch_pruning(importance: str) -> Method:
    """Torch-Pruning's BasePruner: the same fraction of every layer, brought to the budget.

    Fang et al., DepGraph, 2023. Importances are sums over the group.
    """

    def prune(subject: Subject, of: str, ratio: float) -> nn.Module:
        if importance == "BN scale" and not subject.normed:
            raise ValueError("there are no batch norms to go by")  # it would remove nothing
        if of == "channels":
            return _pruned(subject, importance, ratio)

        def pruned(fraction: float) -> nn.Module:
            return _pruned(subject, importance, fraction)

        return to_budget(subject.model, pruned, ratio, lambda net: _cost(net, of, subject), of)

    return prune


def _least(fits: Callable[[float], bool]) -> float:
    """The least fraction of channels that meets a budget."""
    low, high = 0.0, 1.0
    for _ in range(_ROUNDS):
        middle = (low + high) / 2
        low, high = (low, middle) if fits(middle) else (middle, high)
    return high


class Beyond(ValueError):
    """A tool does not get down to a budget; the message says how far it gets."""


def _size(net: nn.Module) -> float:
    return float(sum(p.numel() for p in net.parameters()))


def to_budget(
    net: nn.Module, pruned: Callable[[float], nn.Module], ratio: float,
    cost: Callable[[nn.Module], float] = _size, of: str = "parameters",
) -> nn.Module:  # fmt: skip
    """What remains of a network at the least fraction of channels that meets a budget.

    Args:
        net: The network.
        pruned: Gives what remains for a fraction of the channels.
        ratio: Of the cost that goes.
        cost: Of a network.
        of: Its name, for the message.

    Raises:
        Beyond: No fraction that was tried meets it.
    """
    whole = cost(net)
    tried: list[float] = []

    def fits(fraction: float) -> bool:
        tried.append(1 - cost(pruned(fraction)) / whole)
        return tried[-1] >= ratio

    found = _least(fits)
    if max(tried) < ratio:
        raise Beyond(f"at most {max(tried):.0%} of the {of} go")
    return pruned(found)


def _cost(model: nn.Module, of: str, subject: Subject) -> float:
    import torch_pruning as tp

    macs, params = tp.utils.count_ops_and_params(copy.deepcopy(model), subject.inputs[:1])
    return float(params if of == "params" else macs)


def _pruned(subject: Subject, importance: str, ratio: float) -> nn.Module:
    import torch_pruning as tp

    small = copy.deepcopy(subject.model)
    kinds: dict[str, Callable[[], Any]] = {
        "L2": lambda: tp.importance.GroupMagnitudeImportance(p=2),
        "BN scale": tp.importance.BNScaleImportance,
        "Taylor": tp.importance.GroupTaylorImportance,
    }
    attentions = [m for m in small.modules() if hasattr(m, "num_heads")]
    projections = [
        (module, attention.num_heads)
        for attention in attentions
        for name, module in attention.named_children()
        if name in ("qkv", "query", "key", "value")
    ]
    last = [module for module in small.modules() if isinstance(module, nn.Linear)][-1]
    pruner = tp.pruner.BasePruner(
        small,
        subject.example,
        kinds[importance](),
        pruning_ratio=ratio,
        ignored_layers=[last],
        num_heads=dict(projections),
    )
    if importance == "Taylor":
        assert subject.labels is not None
        torch.autograd.backward(F.cross_entropy(small(subject.inputs), subject.labels))
    pruner.step()
    small(subject.example)
    small.zero_grad()
    return small


TORCH_PRUNING_STRENGTHS = (5e-4, 5e-3, 5e-2)
"""Their example's strength (5e-4, for some hundred epochs), and larger ones for short trainings."""


def torch_pruning_lasso(
    net: nn.Module, example: torch.Tensor, strength: float
) -> tuple[Any, Callable[..., Any]]:
    """Torch-Pruning's sparse learning (DepGraph's group norms), and what prunes by it afterwards.

    Args:
        net: The network, trained in place.
        example: Inputs.
        strength: Of their regularisation.

    Returns:
        Their pruner, whose `update_regularizer()` comes before each epoch and `regularize(net)`
        before each step; and a function of a fraction that gives a pruned copy. Channels are chosen
        from all layers.
    """
    import torch_pruning as tp

    def pruner(model: nn.Module, ratio: float) -> Any:
        last = [module for module in model.modules() if isinstance(module, nn.Linear)][-1]
        return tp.pruner.GroupNormPruner(
            model, example, importance=tp.importance.GroupMagnitudeImportance(p=2), reg=strength,
            pruning_ratio=ratio, ignored_layers=[last], global_pruning=True,
        )  # fmt: skip

    def pruned(ratio: float) -> nn.Module:
        small = copy.deepcopy(net)
        pruner(small, ratio).step()
        return small

    def down_to(ratio: float) -> nn.Module:
        return to_budget(net, pruned, ratio)

    return pruner(net, 0.5), down_to


def kirigami(net: nn.Module, example: torch.Tensor, ratio: float) -> nn.Module:
    """torch-kirigami: a copy without the channels of the smallest group norms, of all layers.

    Args:
        net: The network.
        example: Inputs.
        ratio: Fraction of the parameters that goes.
    """
    from torch_kirigami import DependencyGraph
    from torch_kirigami.pruning import Greedy, GroupMagnitude, ParameterBudget, Pruner

    small = copy.deepcopy(net).eval()
    pruner = Pruner(small, graph=DependencyGraph.build(small, args=(example,)))
    most = int((1 - ratio) * sum(parameter.numel() for parameter in small.parameters()))
    found, _ = pruner.prune(
        pruner.discover_candidates(),
        budget=ParameterBudget(max_params=most),
        strategy=Greedy(GroupMagnitude(p=2)),
    )
    return found  # type: ignore[no-any-return]


def fasterai(net: nn.Module, example: torch.Tensor, ratio: float) -> nn.Module:
    """The Pruner of fasterai: a copy without the filters of the smallest magnitude, of all layers.

    Args:
        net: The network.
        example: Inputs.
        ratio: Fraction of the parameters that goes.
    """
    from fasterai.core.criteria import large_final
    from fasterai.prune.pruner import Pruner

    def pruned(fraction: float) -> nn.Module:
        small = copy.deepcopy(net)
        last = [module for module in small.modules() if isinstance(module, nn.Linear)][-1]
        Pruner(
            small, fraction, "global", large_final, ignored_layers=[last], example_inputs=example
        ).prune_model()
        return small

    return to_budget(net, pruned, ratio)


def nncf_magnitude(
    net: nn.Module, example: torch.Tensor, ratio: float, epochs: int
) -> tuple[nn.Module, Callable[[], None]]:
    """NNCF's magnitude pruning of single weights; it has no pruning of channels any more.

    Args:
        net: The network.
        example: Inputs.
        ratio: Fraction of the weights that are zero in the end.
        epochs: After so many they are.

    Returns:
        The network to train, and what comes before each epoch.
    """
    import nncf
    from nncf.torch.function_hook.pruning.magnitude.schedulers import (
        ExponentialMagnitudePruningScheduler,
    )

    mode = nncf.PruneMode.UNSTRUCTURED_MAGNITUDE_GLOBAL
    made: nn.Module = nncf.prune(net, mode, ratio=0.0, examples_inputs=example)
    scheduler = ExponentialMagnitudePruningScheduler(
        made, mode=mode, initial_ratio=0.0, target_ratio=ratio, target_epoch=epochs
    )
    return made, scheduler.step


def modelopt(subject: Subject, of: str, ratio: float) -> nn.Module:
    """NVIDIA ModelOpt's FastNAS: a search scored by accuracy on the 256 labelled inputs.

    Raises:
        ImportError: It is not installed.
        ValueError: It has no such budget.
    """
    import modelopt.torch.prune as mtp

    costs = {"params": "params", "macs": "flops"}
    if of not in costs or subject.labels is None:
        raise ValueError(f"FastNAS has no budget of {of}")
    inputs, labels = subject.inputs, subject.labels

    def score(model: nn.Module) -> float:
        with torch.no_grad():
            return float((model.eval()(inputs).argmax(1) == labels).float().mean())

    small, _ = mtp.prune(
        copy.deepcopy(subject.model),
        mode="fastnas",
        constraints={costs[of]: f"{100 * (1 - ratio):g}%"},
        dummy_input=subject.example,
        config={
            "data_loader": [(inputs, labels)],
            "score_func": score,
            "collect_func": lambda batch: batch[0],
            "verbose": False,
        },
    )
    return small.eval()  # type: ignore[no-any-return]

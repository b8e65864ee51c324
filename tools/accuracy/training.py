"""Training a network, once: the weights are kept in the user's cache."""

from __future__ import annotations

import hashlib
import inspect
from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import nn

from accuracy import nets
from accuracy.fetch import folder
from accuracy.tasks import Split, Task


def accuracy(model: nn.Module, data: Split) -> float:
    """Top-1 accuracy in %."""
    with torch.no_grad():
        found = torch.cat([model.eval()(x).argmax(1) for x in torch.split(data[0], 500)])
    return 100 * float((found == data[1]).float().mean())


def train(
    model: nn.Module, task: Task, epochs: int, seed: int, rate: float = 3e-3,
    attach: Callable[[torch.optim.Optimizer, int], object] = lambda optimizer, steps: None,
) -> nn.Module:  # fmt: skip
    """Train in place with AdamW and one cycle of the learning rate.

    Args:
        model: The network.
        task: What it is trained on.
        epochs: Passes over the training images.
        seed: For their order.
        rate: Highest learning rate.
        attach: Gets the optimizer and the number of its steps before training: attaches methods.
    """
    inputs, labels = task.train
    steps = epochs * -(-len(inputs) // 64)
    optimizer = torch.optim.AdamW(model.parameters(), rate, weight_decay=0.01)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, rate, total_steps=steps)
    generator = torch.Generator().manual_seed(seed)
    attach(optimizer, steps)
    model.train()
    for _ in range(epochs):
        order = torch.randperm(len(inputs), generator=generator)
        for batch in torch.split(order, 64):
            optimizer.zero_grad()
            found = model(task.noisy(inputs[batch], generator))
            torch.autograd.backward(F.cross_entropy(found, labels[batch], label_smoothing=0.1))
            optimizer.step()
            schedule.step()
    return model.eval()


def trained(name: str, kind: str, task: Task, seed: int, epochs: int | None = None) -> nn.Module:
    """A trained network: from the cache, if one was trained by the same code on the same data.

    Args:
        name: Of the network.
        kind: Of the task.
        task: What it is trained on.
        seed: For its weights and the order of training.
        epochs: Instead of the task's own.
    """
    torch.manual_seed(seed)
    model = task.nets[name]()
    epochs = epochs or task.epochs.get(name, task.epochs[""])
    code = f"{inspect.getsource(nets)}{inspect.getsource(train)}{epochs}".encode()
    key = hashlib.sha256(code + task.train[0].numpy().tobytes()).hexdigest()[:12]
    path = folder() / "nets" / f"{kind}-{name}-{seed}-{key}.pt"
    if path.exists():
        model.load_state_dict(torch.load(path, weights_only=True))
        return model.eval()
    train(model, task, epochs, seed)
    path.parent.mkdir(parents=True, exist_ok=True)
    torch.save(model.state_dict(), path)
    return model

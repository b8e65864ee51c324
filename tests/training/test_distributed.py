"""Two processes of `DistributedDataParallel` train one network."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.distributed as dist
import torch.multiprocessing as mp
from torch.nn.parallel import DistributedDataParallel

import graphprune
from graphprune import OptionError
from graphprune.training import Gates, Gradual, GroupLasso, Schedule, SparseTraining
from tests.training.nets import INPUTS, LABELS, cnn, train


def _process(rank: int, store: str, out: str) -> None:
    dist.init_process_group("gloo", init_method=f"file://{store}", rank=rank, world_size=2)
    torch.manual_seed(rank)
    model = cnn()
    gates = Gates(model, 0.5, example_inputs=INPUTS[:2], warmup=2, keep=["8"])
    wrapped = DistributedDataParallel(model)
    optimizer = torch.optim.SGD(wrapped.parameters(), 0.05, momentum=0.9)
    gates.attach(optimizer)
    GroupLasso(wrapped, 1e-2, example_inputs=INPUTS[:2], keep=["0"]).attach(optimizer)
    schedule = Schedule(0, 0.5, 1, 4, 1)
    sparse = SparseTraining(wrapped, schedule, "rigl", example_inputs=INPUTS[:2], keep=["0", "3"])
    sparse.attach(optimizer)
    with pytest.raises(OptionError, match="holds on to the parameters"):
        Gradual(wrapped, schedule)
    half = slice(16 * rank, 16 * rank + 16)
    for _ in range(6):
        optimizer.zero_grad()
        torch.nn.functional.cross_entropy(wrapped(INPUTS[half]), LABELS[half]).backward()
        optimizer.step()
    torch.save({n: p.detach() for n, p in model.named_parameters()}, os.path.join(out, f"{rank}"))
    dist.destroy_process_group()


@pytest.mark.slow
def test_both_processes_end_with_the_same_weights(tmp_path: Path) -> None:
    mp.spawn(_process, (str(tmp_path / "store"), str(tmp_path)), nprocs=2)
    one, two = (torch.load(tmp_path / str(rank)) for rank in range(2))
    assert len(one) > 9  # the gates are among them
    assert all(torch.equal(one[name], two[name]) for name in one)
    assert int((one["8.weight"] == 0).sum()) == 32


def _recovering(rank: int, store: str, out: str) -> None:
    """One rank of `recover`; accelerate finds its ranks by the environment."""
    os.environ |= {
        "RANK": str(rank), "LOCAL_RANK": str(rank), "WORLD_SIZE": "2", "LOCAL_WORLD_SIZE": "2",
        "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": "0", "ACCELERATE_USE_CPU": "true",
    }  # fmt: skip
    dist.init_process_group("gloo", init_method=f"file://{store}", rank=rank, world_size=2)
    import accelerate

    accelerator = accelerate.Accelerator(cpu=True)
    model = cnn()
    train(model, torch.optim.Adam(model.parameters(), 1e-2), 20)
    small = graphprune.shrink(model.eval(), 0.5, example_inputs=INPUTS[:2], compensate=False)
    options: dict[str, Any] = {"epochs": 3, "batch_size": 4, "rate": 5e-3}
    better = graphprune.recover(small, model, INPUTS, accelerator=accelerator, **options)
    done = better.graphprune_recovery
    held = {**better.state_dict(), "ranks": torch.tensor(accelerator.num_processes)}
    torch.save((held, done.before, done.after, done.losses), os.path.join(out, f"{rank}"))
    dist.destroy_process_group()


@pytest.mark.slow
def test_two_ranks_recover_one_network(tmp_path: Path) -> None:
    pytest.importorskip("accelerate")
    mp.spawn(_recovering, (str(tmp_path / "store"), str(tmp_path)), nprocs=2)
    one, two = (torch.load(tmp_path / str(rank)) for rank in range(2))
    parameters = [name for name, _ in cnn().named_parameters()]
    assert int(one[0]["ranks"]) == 2
    assert all(torch.equal(one[0][name], two[0][name]) for name in parameters)
    assert one[1:3] == two[1:3] and one[2] < one[1]  # they judge alike
    assert len(one[3]) == len(two[3]) == 9 and one[3] != two[3]  # each has a half of the batches

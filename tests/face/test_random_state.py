"""Whoever draws random numbers draws the same ones whether or not a model was shrunk in between."""

from __future__ import annotations

import subprocess
import sys

_SCRIPT = """
import random
import numpy, torch
from torch import nn
torch.manual_seed(0)
net = nn.Sequential(nn.Linear(8, 32), nn.BatchNorm1d(32), nn.ReLU(), nn.Linear(32, 4)).eval()
x = torch.randn(96, 8)
state = lambda: (random.getstate(), numpy.random.get_state()[1].tobytes(), torch.get_rng_state())
before = state()

def check(name):
    now = state()
    same = (now[0] == before[0], now[1] == before[1], bool(torch.equal(now[2], before[2])))
    assert all(same), f"{name} moved the state of (random, numpy, torch): {same}"

import graphprune
check("import graphprune")
graphprune.plan(net, 0.5, data=x, effort="fast").apply()
check("plan")
graphprune.shrink(net, 0.5, compensate=False)
check("shrink")
str(graphprune.plan(net, 0.5, compensate=False).report)
check("report")
graphprune.sparsify(net, 0.5)
check("sparsify")
graphprune.factor(net, 0.1)
check("factor")
graphprune.compact(net)
check("compact")
graphprune.analyze(net)
check("analyze")
graphprune.sweep(net, (0.5,), compensate=False)
graphprune.sensitivity(net, 0.5, compensate=False)
check("sweep and sensitivity")
"""


def test_the_first_calls_of_a_process_leave_random_states_alone() -> None:
    done = subprocess.run(
        [sys.executable, "-c", _SCRIPT], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr[-2000:]

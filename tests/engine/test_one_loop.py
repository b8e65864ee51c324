"""Operations are evaluated in one loop: `Run`."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

import torch
from torch import nn

from graphprune.engine.run import Run, given_inputs
from graphprune.frontends.opening import open_model

ROOT = Path(__file__).parent.parent.parent


def _evaluating(tree: ast.AST) -> Iterator[ast.For]:
    """Loops in which an operation is evaluated."""
    for loop in ast.walk(tree):
        if isinstance(loop, ast.For):
            for node in ast.walk(loop):
                if isinstance(node, ast.Call):
                    name = getattr(node.func, "attr", getattr(node.func, "id", ""))
                    if name in ("evaluate", "_evaluate"):
                        yield loop
                        break


def test_one_loop_evaluates_the_operations_of_a_graph() -> None:
    files = [
        path
        for path in (*ROOT.glob("graphprune/**/*.py"), *ROOT.glob("passes/*.py"))
        if "graphprune/passes" not in path.as_posix()
    ]
    found = [str(p.relative_to(ROOT)) for p in files for _ in _evaluating(ast.parse(p.read_text()))]
    assert found == ["graphprune/engine/run.py"]


def test_the_search_finds_a_second_loop() -> None:
    text = "for op in graph.ops:\n    env[op] = engine.evaluate(op, [], {}, None)\n"
    assert len(list(_evaluating(ast.parse(text)))) == 1


def test_values_are_freed_after_their_last_use() -> None:
    net = nn.Sequential(nn.Linear(4, 8), nn.ReLU(), nn.Linear(8, 2)).eval()
    x = torch.randn(2, 4)
    graph = open_model(net, ((x,), {})).program.graph
    run = Run(graph, lambda value: value.tensor, [given_inputs(graph, [x])])
    held = []
    for op in run.steps():
        held.append(sum(len(env) for env in run._envs))
        last = run.values(op.outputs[0])[0]
    assert max(held) == 2  # what an operation reads, and its result
    assert torch.allclose(last, net(x))

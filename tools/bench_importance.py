"""Scoring at the speed of memory: NumPy, PyTorch, Torch-Pruning and the kernels, in one run.

    pip install torch-pruning
    python tools/bench_importance.py --out importance

The same groups are scored by all: the sum of squares over every slice that an index owns. The
share is that of the machine's copy bandwidth (bytes read and written), measured in the same run;
the bytes touched are those of the weights, read once. Torch-Pruning's `GroupMagnitudeImportance`
scores the groups that it finds itself, without the time to find them. Optimal Brain Surgeon removes
half of n inputs, one after the other, beside the same elimination in PyTorch. Compilation is timed
in a fresh process, with an empty cache and with a full one. With OMP_NUM_THREADS=1, times are those
of the thread, which a busy machine does not stretch.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import warnings
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
import torchvision
from timing import least
from torch import nn

import graphprune
from graphprune.compensation.obs import damped_inverse, eliminate
from graphprune.core.groups import Dependencies
from graphprune.importance.context import by_slice, summing
from graphprune.importance.kernels import SQUARED, Scores

COMPILE = """
import time, torch
from graphprune.importance.kernels import SQUARED, slice_sums
start = time.process_time()
for shape in ((256, 512), (64, 64, 3, 3)):
    slice_sums(torch.ones(shape), SQUARED)
print(time.process_time() - start)
"""


class LlamaBlock(nn.Module):
    """Attention and gated MLP of a Llama-like model, 4096 x 11008."""

    def __init__(self, width: int = 4096, hidden: int = 11008, heads: int = 32) -> None:
        super().__init__()
        self.heads = heads
        self.norms = nn.ModuleList(nn.RMSNorm(width) for _ in range(2))
        self.q, self.k, self.v, self.o = (nn.Linear(width, width, bias=False) for _ in range(4))
        self.gate, self.up = (nn.Linear(width, hidden, bias=False) for _ in range(2))
        self.down = nn.Linear(hidden, width, bias=False)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Tokens `n x t x width` to the same shape."""
        h = self.norms[0](x)
        q, k, v = (
            layer(h).unflatten(-1, (self.heads, -1)).transpose(1, 2)
            for layer in (self.q, self.k, self.v)
        )
        x = x + self.o(F.scaled_dot_product_attention(q, k, v).transpose(1, 2).flatten(-2))
        h = self.norms[1](x)
        out: torch.Tensor = x + self.down(F.silu(self.gate(h)) * self.up(h))
        return out


MODELS: dict[str, tuple[Callable[[], nn.Module], tuple[int, ...]]] = {
    "resnet50": (lambda: torchvision.models.resnet50(weights=None), (2, 3, 224, 224)),
    "vit_b_16": (lambda: torchvision.models.vit_b_16(weights=None), (2, 3, 224, 224)),
    "llama block": (LlamaBlock, (2, 4, 4096)),
}


def copy_bandwidth(runs: int) -> float:
    """Bytes read and written per second by a copy that no cache holds."""
    source = torch.ones(64 << 20)
    target = torch.empty_like(source)
    return 2 * source.nbytes / least(lambda: target.copy_(source), runs)


def sums_of_torch(tensor: torch.Tensor, dims: Sequence[int]) -> Mapping[int, Scores]:
    """The plain way: a reduction for each dimension."""
    others = {d: [o for o in range(tensor.dim()) if o != d] for d in dims}
    squares = {d: tensor.detach().square() for d in dims}
    return {d: (x.sum(others[d]) if others[d] else x).double().numpy() for d, x in squares.items()}


def sums_of_numpy(tensor: torch.Tensor, dims: Sequence[int]) -> Mapping[int, Scores]:
    """As `sums_of_torch`, in NumPy."""
    array = tensor.detach().numpy()
    others = {d: tuple(o for o in range(array.ndim) if o != d) for d in dims}
    return {d: np.square(array).sum(others[d]).astype(np.float64) for d in dims}


def touched(deps: Dependencies) -> int:
    """Bytes of all weights that some group holds."""
    weights = {m.weight for g in deps.groups for m in g.members if m.weight.kind == "parameter"}
    return sum(int(weight.tensor.nbytes) for weight in weights)


def ignored(model: nn.Module) -> list[nn.Module]:
    """The classifier, which the peer has to be told of."""
    heads = [m for m in model.modules() if isinstance(m, nn.Linear) and m.out_features == 1000]
    return list(heads)


def peer(model: nn.Module, x: torch.Tensor, runs: int) -> float | str:
    """Seconds of Torch-Pruning for scoring the groups that it finds."""
    try:
        import torch_pruning as tp
    except ImportError:
        return "not installed"
    importance: Any = tp.importance.GroupMagnitudeImportance(p=2, normalizer=None)
    try:
        graph = tp.DependencyGraph().build_dependency(model, x)
        groups = list(graph.get_all_groups(ignored_layers=ignored(model)))
        return least(lambda: [importance(group) for group in groups], runs)
    except Exception as error:
        return f"failed: {type(error).__name__}"


def compile_seconds() -> tuple[float, float]:
    """Seconds to compile, and to load from the cache, in fresh processes."""
    with tempfile.TemporaryDirectory() as folder:
        environment = {**os.environ, "NUMBA_CACHE_DIR": folder}
        times = [
            float(
                subprocess.run(
                    [sys.executable, "-c", COMPILE],
                    env=environment,
                    capture_output=True,
                    text=True,
                    check=True,
                ).stdout
            )
            for _ in range(2)
        ]
    return times[0], times[1]


def measure(name: str, runs: int) -> dict[str, Any]:
    """Seconds of every way to score one model."""
    build, shape = MODELS[name]
    torch.manual_seed(0)
    model = build().eval()
    x = torch.randn(shape)
    deps = graphprune.analyze(model, x)
    ways = {"numpy": sums_of_numpy, "torch": sums_of_torch, "ours": summing(SQUARED)}
    scores = {way: by_slice(deps, sums) for way, sums in ways.items()}
    for ours, theirs in zip(scores["ours"], scores["torch"], strict=True):
        for a, b in zip(ours, theirs, strict=True):
            np.testing.assert_allclose(a, b, rtol=1e-4)
    found: dict[str, Any] = {"model": name, "bytes": touched(deps)}
    for way, sums in ways.items():
        found[way] = least(lambda sums=sums: by_slice(deps, sums), runs)  # type: ignore[misc]
    found["peer"] = peer(model, x, runs)
    found["bandwidth"] = copy_bandwidth(runs)
    found["share"] = found["bytes"] / found["ours"] / found["bandwidth"]
    return found


def obs_of_torch(inverse: torch.Tensor, gram: torch.Tensor, count: int) -> list[int]:
    """Greedy Optimal Brain Surgeon in PyTorch: both matrices downdated whole, in place."""
    h, a = inverse.clone(), gram.clone()
    gone = torch.zeros(len(h), dtype=torch.bool)
    order = []
    for _ in range(count):
        losses = (a.diagonal() / h.diagonal()).masked_fill(gone, torch.inf)
        i = int(losses.argmin())
        order.append(i)
        gone[i] = True
        step = h[i] / h[i, i]
        cross = a[i] - 0.5 * a[i, i] * step
        a.addr_(step, cross, alpha=-1).addr_(cross, step, alpha=-1)
        h.addr_(h[i].clone(), step, alpha=-1)
        h[i, i] = 1.0
    return order


def measure_obs(n: int, runs: int) -> dict[str, Any]:
    """Seconds of eliminating half of n inputs, ours and in PyTorch, on the same matrices."""
    rng = np.random.default_rng(n)
    x, w = rng.standard_normal((2 * n, n)), rng.standard_normal((n, n))
    x *= rng.uniform(0.2, 2.0, n)
    inverse, gram = damped_inverse(x.T @ x / len(x)), w.T @ w
    count = n // 2
    found = eliminate(inverse, gram, count)
    pair = torch.from_numpy(inverse), torch.from_numpy(gram)
    alike = obs_of_torch(*pair, count) == found.order.tolist()
    ours = least(lambda: eliminate(inverse, gram, count), runs)
    torchs = least(lambda: obs_of_torch(*pair, count), runs if n < 1024 else 1)
    return {"n": n, "ours": ours, "torch": torchs, "alike": alike}


def obs_line(found: dict[str, Any]) -> str:
    """One row of the table of eliminations."""
    return (
        f"| {found['n']} | {found['torch'] * 1e3:.1f} | {found['ours'] * 1e3:.2f} "
        f"| {found['torch'] / found['ours']:.1f} x | {'same' if found['alike'] else 'OTHER'} |"
    )


def line(found: dict[str, Any]) -> str:
    """One row of the table."""
    theirs, times = found["peer"], ""
    if isinstance(theirs, float):
        theirs, times = f"{theirs * 1e3:.1f}", f"{theirs / found['ours']:.1f} x"
    return (
        f"| {found['model']} | {found['bytes'] / 1e6:.0f} | {found['numpy'] * 1e3:.1f} "
        f"| {found['torch'] * 1e3:.1f} | {theirs} | {found['ours'] * 1e3:.2f} "
        f"| {found['share']:.0%} of {found['bandwidth'] / 1e9:.0f} GB/s "
        f"| {found['torch'] / found['ours']:.1f} x | {times} |"
    )


def main() -> None:
    """Run the benchmark."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--models", nargs="*", default=list(MODELS))
    parser.add_argument("--sizes", nargs="*", type=int, default=[128, 256, 512, 1024, 2048])
    parser.add_argument("--runs", type=int, default=15)
    parser.add_argument("--out", type=Path, help="write OUT.md and OUT.json")
    options = parser.parse_args()
    warnings.filterwarnings("ignore")
    cold, warm = compile_seconds()
    print(f"compilation: {cold:.2f} s cold, {warm:.2f} s from the cache")
    print(f"threads: {torch.get_num_threads()}")
    text = [
        "| model | MB | NumPy ms | torch ms | Torch-Pruning ms | ours ms | share of copy bandwidth "
        "| x torch | x Torch-Pruning |",
        "|---|---|---|---|---|---|---|---|---|",
    ]
    print(*text, sep="\n")
    rows = []
    for name in options.models:
        rows.append(measure(name, options.runs))
        text.append(line(rows[-1]))
        print(text[-1], flush=True)
    text += ["", "| n | torch ms | ours ms | x torch | order |", "|---|---|---|---|---|"]
    print(*text[-3:], sep="\n")
    sizes = []
    for n in options.sizes:
        sizes.append(measure_obs(n, 5))
        text.append(obs_line(sizes[-1]))
        print(text[-1], flush=True)
    if options.out:
        options.out.with_suffix(".md").write_text("\n".join(text) + "\n")
        data = {"cold": cold, "cached": warm, "rows": rows, "obs": sizes}
        options.out.with_suffix(".json").write_text(json.dumps(data, indent=1))


if __name__ == "__main__":
    main()

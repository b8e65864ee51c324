"""How much faster `compact` alone makes unpruned models, beside onnxsim and onnxslim.

Every model is made to look trained. In torch it runs as it is and compacted; its export, batch
norms left in, runs in ONNX Runtime (one thread, default optimisations) as exported, compacted, and
as onnxsim and onnxslim leave it. Runs are interleaved, the least time of each counts. The table
says how many nodes are left, the latency, and the largest relative difference of the outputs.

    python tools/bench_fold.py
    python tools/bench_fold.py torchvision:resnet50 timm:repvgg_a0 --rounds 20
"""

from __future__ import annotations

import argparse
import io
import time
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import partial
from typing import Any

import numpy as np
import onnx
import onnxruntime
import torch
from measure import Row, look_trained
from torch import nn
from zoo import build

import graphprune

MODELS = (
    "torchvision:resnet50", "torchvision:mobilenet_v2", "torchvision:regnet_y_400mf",
    "timm:repvgg_a0", "timm:mobileone_s0", "timm:vit_tiny_patch16_224",
)  # fmt: skip
_ROUNDS = 12
_SIDE = 224


def exported(model: nn.Module, x: torch.Tensor) -> onnx.ModelProto:
    """A model as the exporter writes it, its norms left alone."""
    file: Any = io.BytesIO()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        torch.onnx.export(
            model, (x,), file, dynamo=False, do_constant_folding=False, input_names=["x"],
            training=torch.onnx.TrainingMode.PRESERVE, dynamic_axes={"x": {0: "n"}},
        )  # fmt: skip
    return onnx.load_from_string(file.getvalue())


def tools() -> dict[str, Callable[[onnx.ModelProto], onnx.ModelProto]]:
    """What makes a file smaller."""
    import onnxsim
    import onnxslim

    return {
        "onnxsim": lambda model: onnxsim.simplify(model)[0],
        "onnxslim": lambda model: onnxslim.slim(model),
        "compact": graphprune.compact,
    }


def session(model: onnx.ModelProto) -> onnxruntime.InferenceSession:
    """A model, ready to run in one thread."""
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = options.inter_op_num_threads = 1
    options.log_severity_level = 3
    return onnxruntime.InferenceSession(model.SerializeToString(), options)


def interleaved(calls: Mapping[str, Callable[[], Any]], rounds: int) -> dict[str, float]:
    """Least milliseconds of each call."""
    best = dict.fromkeys(calls, float("inf"))
    for call in calls.values():
        call()
    for _ in range(rounds):
        for name, call in calls.items():
            start = time.process_time()
            call()
            best[name] = min(best[name], 1e3 * (time.process_time() - start))
    return best


def measured(name: str, rounds: int) -> Iterator[Row]:
    """The rows of one model: torch, then its file and what each tool makes of it."""
    model, _ = build(name)
    look_trained(model)
    model.eval()
    x = torch.randn(1, 3, _SIDE, _SIDE, generator=torch.Generator().manual_seed(0))
    small = graphprune.compact(model, example_inputs=x.expand(2, -1, -1, -1))
    with torch.inference_mode():
        gap = float((small(x) - model(x)).abs().max() / model(x).abs().max())
        found = interleaved({"as it is": lambda: model(x), "compact": lambda: small(x)}, rounds)
    kinds = [sum(1 for _ in net.modules() if type(_) is not nn.Identity) for net in (model, small)]
    for (how, took), number in zip(found.items(), kinds, strict=True):
        yield _row(name, f"torch, {how}", number, took, found["as it is"], gap)
    file = exported(model, x)
    files = {"as exported": file}
    seconds = {}
    for tool, make in tools().items():
        start = time.perf_counter()
        copy = onnx.ModelProto()
        copy.CopyFrom(file)
        files[tool] = make(copy)
        seconds[tool] = time.perf_counter() - start
    given = {"x": x.numpy()}
    sessions = {how: session(proto) for how, proto in files.items()}
    outputs = {how: run.run(None, given)[0] for how, run in sessions.items()}
    calls = {how: partial(run.run, None, given) for how, run in sessions.items()}
    found = interleaved(calls, rounds)
    for how, took in found.items():
        whole = outputs["as exported"]
        gap = float(np.abs(outputs[how] - whole).max() / np.abs(whole).max())
        number = len(files[how].graph.node)
        yield _row(name, f"ONNX Runtime, {how}", number, took, found["as exported"], gap)


def _row(name: str, how: str, number: int, took: float, before: float, gap: float) -> Row:
    return {
        "model": name, "how": how, "nodes": number, "ms": took, "faster": before / took, "gap": gap
    }  # fmt: skip


def lines(rows: Sequence[Row]) -> Iterator[str]:
    """The table."""
    yield "| model | | nodes or modules | ms | times as fast | largest difference |"
    yield "|---|---|---|---|---|---|"
    for row in rows:
        yield (
            f"| {row['model']} | {row['how']} | {row['nodes']} | {row['ms']:.1f} | "
            f"{row['faster']:.2f} | {row['gap']:.0e} |"
        )


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("models", nargs="*", default=MODELS, help="names of models")
    parser.add_argument("--rounds", type=int, default=_ROUNDS)
    options = parser.parse_args()
    torch.set_num_threads(1)
    rows: list[Row] = []
    for name in options.models:
        rows += measured(name, options.rounds)
        print(*list(lines(rows[-6:]))[2:], sep="\n", flush=True)
    print(*lines(rows), sep="\n")
    return 0


if __name__ == "__main__":
    raise SystemExit(main())

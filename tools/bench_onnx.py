#!/usr/bin/env python
"""ONNX files from both exporters: graphprune beside onnxsim's structured pruning.

    python tools/bench_onnx.py                        # the default models
    python tools/bench_onnx.py resnet18 timm:mixer_s16_224 --exporter trace
    python tools/bench_onnx.py resnet50 --speed       # MACs ratio and measured speed-up
    python tools/bench_onnx.py --real FOLDER          # models of packages; see tools/real_files.py
    python tools/bench_onnx.py --groups               # the same groups as in the module?
    python tools/bench_onnx.py --zoo                  # half of the parameters, no option set

Both are asked for half of the channels of every layer. *cosine* is that of the outputs of the
original and of the smaller model on random images: the weights are untrained. onnxsim is used
where it is installed (`pip install onnxsim`).
"""

from __future__ import annotations

import argparse
import io
import json
import statistics
import sys
import time
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
import torch
from rich.console import Console
from rich.table import Table

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

import graphprune
from graphprune.frontends.torch.saving import silent
from graphprune.models import load_model

MODELS = """
    resnet18 mobilenet_v2 densenet121 efficientnet_b0 shufflenet_v2_x1_0 regnet_y_400mf
    convnext_tiny googlenet timm:vit_tiny_patch16_224 timm:swin_tiny_patch4_window7_224
    timm:mixer_s16_224
"""
PAIRS = 15  # runs of each of the two models, alternating


def export(name: str, exporter: str) -> onnx.ModelProto:
    """A model as one of PyTorch's exporters writes it, at batch 1."""
    torch.manual_seed(0)
    return exported(load_model(name), torch.randn(1, 3, 224, 224), exporter)


def exported(module: torch.nn.Module, image: torch.Tensor, exporter: str) -> onnx.ModelProto:
    """What one of PyTorch's exporters makes of a module."""
    fast = torch.backends.mha.get_fastpath_enabled()
    torch.backends.mha.set_fastpath_enabled(False)  # the fused kernel has no ONNX form
    try:
        return _written(module, image, exporter)
    finally:
        torch.backends.mha.set_fastpath_enabled(fast)


def _written(module: torch.nn.Module, image: torch.Tensor, exporter: str) -> onnx.ModelProto:
    with warnings.catch_warnings(), silent(), torch.no_grad():
        warnings.simplefilter("ignore")
        if exporter == "export":
            program: Any = torch.onnx.export(module, (image,), dynamo=True, verbose=False)
            found: onnx.ModelProto = program.model_proto
            return found
        file: Any = io.BytesIO()
        torch.onnx.export(module, (image,), file, dynamo=False, opset_version=17)
        return onnx.load_from_string(file.getvalue())


def ours(model: onnx.ModelProto) -> onnx.ModelProto:
    return graphprune.shrink(model, 0.5, "channels", allocation="uniform", round_to=1)


def onnxsim_pruned(model: onnx.ModelProto) -> onnx.ModelProto:
    import onnxsim

    with silent():
        simple, _ = onnxsim.simplify(model)
        small: onnx.ModelProto = onnxsim.apply_structured_pruning(simple, sparsity=0.5)
        small = onnxsim.apply_attention_head_pruning(small, sparsity=0.5)
    return small


def parameters(model: onnx.ModelProto) -> int:
    return sum(int(np.prod(t.dims)) for t in model.graph.initializer if t.data_type == 1)


def session(model: onnx.ModelProto) -> Any:
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = torch.get_num_threads()
    options.log_severity_level = 4
    data = model.SerializeToString()
    return onnxruntime.InferenceSession(data, options, providers=["CPUExecutionProvider"])


def cosine(a: onnx.ModelProto, b: onnx.ModelProto) -> float:
    """Mean cosine of the first outputs on four random images."""
    rng, found = np.random.default_rng(0), []
    first, second = session(a), session(b)
    name = first.get_inputs()[0].name
    for _ in range(4):
        image = rng.standard_normal((1, 3, 224, 224)).astype(np.float32)
        x, y = (s.run(None, {name: image})[0].ravel().astype(float) for s in (first, second))
        found.append(x @ y / max(np.linalg.norm(x) * np.linalg.norm(y), 1e-12))
    return float(np.mean(found))


def tried(prune: Callable[[onnx.ModelProto], onnx.ModelProto], model: onnx.ModelProto) -> list[str]:
    """Share of the parameters removed, validity, cosine and seconds."""
    start = time.perf_counter()
    try:
        small = prune(model)
    except Exception as error:
        return [f"failed: {str(error).splitlines()[0][:40]}", "", "", ""]
    seconds = time.perf_counter() - start
    removed = 1 - parameters(small) / parameters(model)
    try:
        onnx.checker.check_model(small, full_check=True)
        alike = f"{cosine(model, small):.3f}"
    except Exception as error:
        return [f"{removed:.1%}", f"no: {str(error).splitlines()[0][:40]}", "", f"{seconds:.1f}"]
    return [f"{removed:.1%}", "yes", alike, f"{seconds:.1f}"]


def speed(model: onnx.ModelProto) -> tuple[float, float]:
    """MACs before over after, and the median of paired times before over after."""
    plan: Any = graphprune.plan(model, 0.5, "macs", verify=False)
    before, after = session(model), session(plan.apply())
    name = before.get_inputs()[0].name
    image = np.random.default_rng(0).standard_normal((1, 3, 224, 224)).astype(np.float32)
    ratios = []
    for _ in range(PAIRS):
        times = []
        for runner in (before, after):
            start = time.perf_counter()
            runner.run(None, {name: image})
            times.append(time.perf_counter() - start)
        ratios.append(times[0] / times[1])
    macs = plan.report.macs
    return macs[0] / macs[1], statistics.median(ratios)


def real(folder: Path, only: list[str]) -> Table:
    """Agreement of smaller models with the original on real inputs."""
    from real_files import real_files

    table = Table(title="agreement with the original, on inputs that no step has seen")
    for column in ("model", "removed", "agreement", "plain", "no data", "with data", "speed-up"):
        table.add_column(column)
    for item in real_files(folder):
        if only and item.name not in only:
            continue
        for ratio in (0.2, 0.5):
            rows = [_agreeing(item, ratio, **how) for how in (
                {"compensate": False}, {}, {"data": item.calibration})]  # fmt: skip
            reports = [report for _, report in rows]
            removed = f"{reports[0].achieved:.0%} of {item.of}"
            slow, fast = reports[0].latency or (1.0, 1.0)
            found = [f"{share:.1%}" for share, _ in rows]
            table.add_row(item.name, removed, item.measure, *found, f"{slow / fast:.2f} x")
            print(item.name, ratio, removed, *found, f"{slow / fast:.2f} x", flush=True)
            print(*(report.compensation for report in reports[1:]), sep=" | ", flush=True)
    return table


def _agreeing(item: Any, ratio: float, **how: Any) -> tuple[float, Any]:
    plan: Any = graphprune.plan(item.model, ratio, item.of, **how)
    small = plan.apply()
    original = onnx.load(item.model) if isinstance(item.model, Path) else item.model
    first, second = session(original), session(small)
    found = [
        share
        for feeds in item.tests
        for share in item.agreement(first.run(None, feeds), second.run(None, feeds))
    ]
    return float(np.mean(found)), plan.report


def _groups(models: list[str]) -> None:
    """Print, for both exporters, how the groups of files compare with those of modules."""
    from same_groups import MODELS as BOTH
    from same_groups import both_ways

    table = Table(title="groups of the file beside those of the module")
    for column in ("model", "traced", "exported"):
        table.add_column(column)
    for name in models or BOTH.split():
        found = []
        for exporter in ("trace", "export"):
            try:
                found.append(both_ways(name, exporter, exported))
            except Exception as error:
                found.append(f"failed: {str(error).splitlines()[0][:60]}")
        table.add_row(name, *found)
        print(name, *found, sep=" | ", flush=True)
    Console(width=150).print(table)


def _zoo(models: list[str], exporters: list[str], out: Path | None) -> int:
    """Shrink exports of many models, each in a process of its own."""
    from bench_coverage import isolated
    from exported_zoo import COLUMNS, cells, measure, names, summary

    rows = []
    print(*COLUMNS, sep=" | ")
    for name in models or names():
        for exporter in exporters:
            row = {"exporter": exporter} | isolated(measure, (name, exporter), 600, 8)
            rows.append(row)
            print(*cells(row), sep=" | ", flush=True)
            if out:
                out.write_text(json.dumps(rows, indent=1, default=str))
    print(summary(rows))
    return int(any("error" in row or row["valid"] != "yes" for row in rows))


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("models", nargs="*")
    parser.add_argument("--exporter", choices=["trace", "export", "both"], default="both")
    parser.add_argument("--speed", action="store_true", help="measure speed-up in ONNX Runtime")
    parser.add_argument("--real", type=Path, metavar="FOLDER", help="models of packages")
    parser.add_argument("--groups", action="store_true", help="the same groups as the module?")
    parser.add_argument("--zoo", action="store_true", help="half of the parameters, no option set")
    parser.add_argument("--out", type=Path, help="where --zoo writes its rows as JSON")
    parser.add_argument("--only", nargs="*", default=[], help="names of --real's models")
    options = parser.parse_args()
    exporters = ["trace", "export"] if options.exporter == "both" else [options.exporter]
    if options.zoo:
        return _zoo(options.models, exporters, options.out)
    if options.real is not None:
        Console(width=150).print(real(options.real, options.only))
    elif options.groups:
        _groups(options.models)
    else:
        _beside(options.models or MODELS.split(), exporters, options.speed)
    return 0


def _beside(models: list[str], exporters: list[str], speeds: bool) -> None:
    """Print a table of graphprune and onnxsim, or of speed-ups."""
    console, table = Console(width=150), Table()
    columns = ["model", "exporter", "removed", "valid", "cosine", "s"]
    columns += ["onnxsim: removed", "valid", "cosine", "s"]
    for column in ["model", "exporter", "MACs", "speed-up"] if speeds else columns:
        table.add_column(column)
    for name in models:
        for exporter in exporters:
            model = export(name, exporter)
            if speeds:
                row = [f"{ratio:.2f} x" for ratio in speed(model)]
            else:
                row = [*tried(ours, model), *tried(onnxsim_pruned, model)]
            table.add_row(name, exporter, *row)
            console.print(name, exporter, *row, markup=False)
    console.print(table)


if __name__ == "__main__":
    raise SystemExit(main())

"""What becomes of exported models that are shrunk with no option set: one row for each export."""

from __future__ import annotations

import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
import torch
from measure import Row, forget_peak, memory
from same_groups import MODELS

import graphprune
from graphprune.models import load_model

MORE = """
    timm:mobilenetv4_conv_small timm:convnextv2_atto timm:edgenext_xx_small timm:mobilevit_xxs
    timm:mobilevitv2_050 timm:efficientvit_b0 timm:fastvit_t8 timm:repghostnet_050 timm:davit_tiny
    timm:visformer_tiny timm:ese_vovnet19b_slim timm:tiny_vit_5m_224 timm:eva02_tiny_patch14_224
    timm:mvitv2_tiny timm:pvt_v2_b0 timm:hiera_tiny_224 timm:inception_next_atto
    timm:starnet_s1 timm:regnetx_002 timm:bat_resnext26ts
"""
COLUMNS = (
    "model", "exporter", "MB", "removed", "valid", "removal = masking", "lift to lower s",
    "peak / file", "compensation",
)  # fmt: skip


LARGE = 50 << 20  # bytes, from which on time and memory tell of the file more than of the program


def names() -> list[str]:
    """The models that are exported where none is named."""
    return [*MODELS.split(), *MORE.split()]


def measure(name: str, exporter: str, folder: str | None = None) -> Row:
    """Export one model, shrink the file, and say what came out.

    Args:
        name: The model's name.
        exporter: `"trace"` or `"export"`.
        folder: Where the files go while they are needed; None for a temporary one.
    """
    if folder is None:
        with tempfile.TemporaryDirectory() as made:
            return measure(name, exporter, made)
    from bench_onnx import exported

    source, target = Path(folder) / "model.onnx", Path(folder) / "small.onnx"
    torch.manual_seed(0)
    model = load_model(name)
    size = (getattr(model, "pretrained_cfg", None) or {}).get("input_size", (3, 224, 224))
    onnx.save(exported(model, torch.randn(1, *size), exporter), source)
    del model
    graphprune.analyze(onnx.load(source))  # what loads and compiles once is not this model's
    row: Row = {"model": name, "exporter": exporter, "bytes": source.stat().st_size}
    row |= _lean(source, target, row["bytes"])
    plan: Any = graphprune.plan(source, 0.5)
    plan.write(target)
    report = plan.report
    row |= {
        "asked": 0.5,
        "removed": report.achieved,
        "exact": report.verification.exact,
        "mixing": len(report.verification.mixing),
        "difference": report.verification.difference,
        "compensation": report.compensation,
        "valid": _valid(source, target, size),
    }
    return row


def _lean(source: Path, target: Path, size: int) -> Row:
    """Seconds and memory without compensation and check."""
    forget_peak()
    before = memory()
    start = time.perf_counter()
    plan = graphprune.plan(source, 0.5, compensate=False, verify=False)
    plan.write(target)
    return {"seconds": time.perf_counter() - start, "peak": (memory() - before) / size}


def _valid(source: Path, target: Path, size: tuple[int, ...]) -> str:
    """`yes`, where the checker and ONNX Runtime take the file and its results look the same."""
    onnx.checker.check_model(str(target), full_check=True)
    image = np.random.default_rng(0).standard_normal((1, *size)).astype(np.float32)
    shapes = []
    for path in (source, target):
        session = onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"])
        found = session.run(None, {session.get_inputs()[0].name: image})
        if not all(np.isfinite(x).all() for x in found):
            return "not finite"
        shapes.append([x.shape for x in found])
    return "yes" if shapes[0] == shapes[1] else "OTHER SHAPES"


def cells(row: Row) -> list[str]:
    """A row as text, in the order of `COLUMNS`."""
    start = [row["model"], row.get("exporter", "")]
    if "error" in row:
        return [*start, "", f"FAILED: {row['error'][:90]}", *[""] * (len(COLUMNS) - 4)]
    exact = "exact" if row["exact"] else f"but for {row['mixing']} norms"
    return [
        *start, f"{row['bytes'] / 2**20:.1f}", f"{row['removed']:.1%}", row["valid"],
        f"{row['difference']:.0e}, {exact}", f"{row['seconds']:.2f}", f"{row['peak']:.1f}",
        row["compensation"][:60],
    ]  # fmt: skip


def summary(rows: list[Row]) -> str:
    """How many did as they should."""
    good = [row for row in rows if "error" not in row]
    off = sum(abs(row["removed"] - row["asked"]) > 0.01 for row in good)
    large = [row for row in good if row["bytes"] >= LARGE]
    worst = max((row["difference"] for row in good), default=0.0)
    text = (
        f"{len(rows)} exports: {len(good)} shrink and are verified, "
        f"{sum(row['valid'] == 'yes' for row in good)} valid and run with the same shapes, "
        f"{off} off the budget by more than 1 %, largest relative difference {worst:.1e}"
    )
    if large:
        slowest = max(row["seconds"] / row["bytes"] for row in large) * LARGE
        text += (
            f"; of {len(large)} files over 50 MB, at most {slowest:.2f} s for 50 MB without "
            f"compensation and check, and {max(row['peak'] for row in large):.1f} x the file"
        )
    return text

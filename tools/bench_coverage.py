"""Coverage: does `graphprune.shrink` work on a whole zoo, with no option set?

Each model runs in a process of its own, with a time and a memory limit. The table says whether
it runs, whether the output structure is the same, what verification found, what became of the
class, the budget, the analysis, times and memory; with `--onnx`, whether the result exports and
agrees in ONNX Runtime; with `--peer torch-pruning`, what the peer makes of the same model.

    python tools/bench_coverage.py torchvision timm --out coverage
    python tools/bench_coverage.py hf plain segmentation detection video optical_flow
    python tools/bench_coverage.py families smp diffusers --of params macs
    python tools/bench_coverage.py families plain --trained --effort fast
    python tools/bench_coverage.py timm:vit_tiny_patch16_224 torchvision:resnet18 hf:llama --onnx
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import resource
import sys
import traceback
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from statistics import mean, median
from typing import Any

from measure import Row, measure, peer
from zoo import SETS, names_of

_COLUMNS = (
    "model", "of", "output", "masking", "class", "achieved", "groups", "reachable", "trains",
    "ONNX Runtime", "reloads / generates", "capture, analysis, all s", "shrink / capture",
    "peak / model", "peer",
)  # fmt: skip

# What every process needs, imported once.
_IMPORTED = ["torch", "torchvision", "timm", "transformers", "onnxruntime", "graphprune", "measure"]


def _child(work: Callable[..., Row], args: tuple[Any, ...], gigabytes: float, pipe: Any) -> None:
    limit = int(gigabytes * 2**30)
    resource.setrlimit(resource.RLIMIT_DATA, (limit, limit))
    try:
        pipe.send(work(*args))
    except BaseException as error:
        lines = str(error).splitlines() or [""]
        detail = traceback.format_exc().splitlines()[-4:]
        told = f"{type(error).__name__}: {lines[0]}"[:400]
        pipe.send({"model": args[0], "error": told, "trace": detail})


def isolated(
    work: Callable[..., Row], args: tuple[Any, ...], seconds: float, gigabytes: float
) -> Row:
    """Measure one model, the first of `args`, in a process of its own."""
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(_IMPORTED)
    mine, theirs = context.Pipe()
    process = context.Process(target=_child, args=(work, args, gigabytes, theirs))
    process.start()
    theirs.close()
    try:
        row: Row = mine.recv() if mine.poll(seconds) else {"model": args[0], "error": "out of time"}
    except EOFError:
        row = {"model": args[0], "error": "the process died (out of memory?)"}
    process.kill()
    process.join()
    return row


def verdict(row: Row) -> str:
    """What verification found, in a word."""
    if "error" in row:
        return "FAILED"
    return "exact" if row["exact"] else f"exact but for {row['mixing']} norms"


def _cells(row: Row) -> Iterator[str]:
    """One line of the table, cell by cell."""
    yield row["model"]
    if "error" in row:
        yield row.get("of", "")
        yield f"FAILED: {row['error']}"
        yield from [""] * (len(_COLUMNS) - 4)
        yield _peer(row)
        return
    kind = "kept" if not row["replaced"] else f"{len(row['replaced'])} generated"
    yield row["of"]
    yield "same" if row["same_output"] else "DIFFERENT"
    yield verdict(row)
    yield "generated" if "" in row["replaced"] else kind
    yield f"{row['achieved']:.4f}"
    yield str(row["groups"])
    yield f"{row['reachable']:.3f}"
    yield _said(row["trains"])
    yield _said(row.get("onnx"))
    yield " / ".join(_said(row[key]) for key in ("reloads", "generates") if key in row)
    times = row["times"]
    yield f"{times['capture']:.2f}, {times['couple']:.3f}, {row['seconds']:.1f}"
    yield f"{row['lean'][0] / row['lean'][1]:.2f}"
    yield f"{row['memory_ratio']:.1f}"
    yield _peer(row)


def _said(found: Any) -> str:
    if found is None:
        return "-"
    return "yes" if found is True else str(found).replace("|", "/")


def _peer(row: Row) -> str:
    found = row.get("peer")
    if found is None:
        return "-"
    return found.get("error") or f"{found['achieved']:.2f} in {found['seconds']:.1f} s"


def lines(rows: Sequence[Row]) -> Iterator[str]:
    """A markdown table and its summary."""
    yield f"| {' | '.join(_COLUMNS)} |"
    yield "|" + "---|" * len(_COLUMNS)
    for row in rows:
        yield f"| {' | '.join(_cells(row))} |"
    for cost in dict.fromkeys(row.get("of", "") for row in rows):
        yield ""
        yield from _summary([row for row in rows if row.get("of", "") == cost], cost)


def _summary(rows: Sequence[Row], cost: str) -> Iterator[str]:
    good = [row for row in rows if "error" not in row]
    yield f"Of {cost}: {len(good)} of {len(rows)} run."
    if not good:
        return
    for text, key in (
        ("one training step works", "trains"),
        ("agrees in ONNX Runtime", "onnx"),
        ("reloads by its config", "reloads"),
        ("generates the same with its cache", "generates"),
    ):
        found = [row[key] for row in good if row.get(key) is not None]
        if found:
            yield f"- {text}: {sum(value is True for value in found)} of {len(found)}"
    yield f"- same output structure: {sum(row['same_output'] for row in good)}"
    yield f"- class kept with no generated submodule: {sum(not row['replaced'] for row in good)}"
    off = sum(abs(row["achieved"] - row["asked"]) > 0.01 for row in good)
    yield f"- off the budget by more than 1 %: {off}"
    yield f"- largest relative difference: {max(row['difference'] for row in good):.1e}"
    yield f"- parameters reachable: {mean(row['reachable'] for row in good):.1%} on average"
    left = {row["model"]: row["left"] for row in good if row["left"]}
    for name, found in left.items():
        reasons = ", ".join(dict.fromkeys(found.values()))
        yield f"- {name}: {len(found)} operations are not compensated ({reasons})"
    for row in good:
        if row["reachable"] < 0.9:
            reasons = "; ".join(f"{n} x {why}" for why, n in list(row["locks"].items())[:3])
            yield f"  - {row['model']}: {row['reachable']:.1%} ({reasons})"
    ratios = [whole / capture for whole, capture in (row["lean"] for row in good)]
    yield (
        f"- without compensation and check, in units of the capture: median {median(ratios):.2f}, "
        f"{sum(ratio > 2 for ratio in ratios)} above 2"
    )
    large = [row["memory_ratio"] for row in good if row["megabytes"] >= 100]
    if large:
        yield (
            f"- peak memory over the model, {len(large)} models of 100 MB or more: median "
            f"{median(large):.2f}, most {max(large):.2f}"
        )
    peers = [row["peer"] for row in rows if "peer" in row]
    if peers:
        yield f"- Torch-Pruning: {sum('error' not in found for found in peers)} of {len(peers)}"


def _one(name: str, of: str, options: argparse.Namespace) -> Row:
    limits = (options.seconds, options.gigabytes)
    asked = (name, options.ratio, of, options.onnx, options.trained, options.effort)
    row: Row = {"of": of} | isolated(measure, asked, *limits)
    if options.peer:
        row["peer"] = isolated(peer, (name, options.ratio), *limits)
    return row


def main() -> int:
    """Run the benchmark."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("models", nargs="+", help="names, or sets: " + ", ".join(SETS))
    parser.add_argument("--ratio", type=float, default=0.5)
    parser.add_argument("--of", nargs="+", default=["params"], help="params, macs or both")
    parser.add_argument("--trained", action="store_true", help="gains that look trained")
    parser.add_argument("--effort", default="auto", help="for compensation")
    parser.add_argument("--onnx", action="store_true", help="export every result to ONNX")
    parser.add_argument("--peer", choices=["torch-pruning"], help="run the peer on the same models")
    parser.add_argument("--seconds", type=float, default=300, help="time limit for a model")
    parser.add_argument("--gigabytes", type=float, default=8, help="memory limit for a model")
    parser.add_argument("--jobs", type=int, default=1, help="models at a time")
    parser.add_argument("--skip", nargs="*", default=[], help="leave out names that contain this")
    parser.add_argument("--out", type=Path, help="write OUT.md and OUT.json")
    options = parser.parse_args()
    names = [n for n in names_of(options.models) if not any(part in n for part in options.skip)]
    rows: list[Row] = []
    with ThreadPoolExecutor(options.jobs) as pool:
        tasks = [(name, of) for of in options.of for name in names]
        for row in pool.map(lambda task: _one(task[0], task[1], options), tasks):
            rows.append(row)
            print(f"| {' | '.join(_cells(row))} |", file=sys.stderr, flush=True)
            if options.out:
                options.out.with_suffix(".json").write_text(json.dumps(rows, indent=1, default=str))
                options.out.with_suffix(".md").write_text("\n".join(lines(rows)) + "\n")
    print("\n".join(lines(rows)))
    return int(any("error" in row for row in rows))


if __name__ == "__main__":
    raise SystemExit(main())

"""Coverage: does `graphprune.shrink` work on a whole zoo, with no option set?

Each model runs in a process of its own, with a time and a memory limit. The table says whether
it runs, whether the output structure is the same, what verification found, what became of the
class, the budget, the analysis and the times.

    python tools/bench_coverage.py torchvision timm --out coverage
    python tools/bench_coverage.py hf plain segmentation detection video optical_flow
    python tools/bench_coverage.py timm:vit_tiny_patch16_224 torchvision:resnet18 hf:llama
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import resource
import sys
import time
import traceback
import warnings
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

from zoo import hf, plain

Row = dict[str, Any]

_SMALL = ("atto", "femto", "pico", "nano", "tiny", "xxs", "_xs", "small", "_s", "_b0", "050", "18")


def torchvision_names(part: str | None = None) -> list[str]:
    """The models of one part of torchvision (segmentation, detection, …), or its classifiers."""
    import torchvision

    models = torchvision.models
    module = models if part is None else getattr(models, part)
    return [f"torchvision:{name}" for name in models.list_models(module=module)]


def timm_names() -> list[str]:
    """One small variant of each of timm's model modules."""
    import timm
    from timm.models import _registry

    by_module: dict[str, list[str]] = {}
    for name in timm.list_models():
        by_module.setdefault(_registry._model_to_module[name], []).append(name)
    chosen = []
    for names in by_module.values():
        small = [name for name in names if any(mark in name for mark in _SMALL)]
        chosen.append(f"timm:{(small or names)[0]}")
    return sorted(chosen)


SETS: dict[str, Callable[[], list[str]]] = {
    "torchvision": torchvision_names,
    "timm": timm_names,
    "hf": hf.names,
    "plain": plain.names,
    **{
        part: partial(torchvision_names, part)
        for part in ("segmentation", "detection", "video", "optical_flow")
    },
}


def build(name: str) -> tuple[Any, Any]:
    """The model of a name like `timm:resnet18`, with random weights, in eval mode, and its inputs.

    Inputs are None where graphprune is to find them.
    """
    library, _, rest = name.partition(":")
    if library == "timm":
        import timm

        return timm.create_model(rest).eval(), None
    if library == "hf":
        return hf.build(rest), None
    if library == "plain":
        return plain.build(rest)
    import torchvision

    options: dict[str, Any] = {"weights": None}
    if rest in ("googlenet", "inception_v3"):
        options["init_weights"] = False
    example = None
    if f"torchvision:{rest}" in SETS["optical_flow"]():
        import torch

        example = (torch.randn(2, 3, 128, 128), torch.randn(2, 3, 128, 128))
    if f"torchvision:{rest}" in SETS["segmentation"]() + SETS["detection"]():
        options["weights_backbone"] = None
    return torchvision.models.get_model(rest, **options).eval(), example


def measure(name: str, ratio: float, of: str) -> Row:
    """Shrink one model and describe what happened."""
    import torch
    from torch.utils import _pytree as pytree

    import graphprune

    warnings.filterwarnings("ignore")
    model, example = build(name)
    row: Row = {"model": name, "params": sum(p.numel() for p in model.parameters())}
    start = time.perf_counter()
    plan = graphprune.plan(model, ratio, of, example_inputs=example)
    small = plan.apply()
    row["seconds"] = time.perf_counter() - start
    report = plan.report
    assert report is not None and report.verification is not None and plan.inputs is not None
    args, kwargs = plan.inputs
    deps = graphprune.analyze(model, kwargs or args)
    row |= {
        "achieved": report.achieved,
        "exact": report.verification.exact,
        "mixing": len(report.verification.mixing),
        "difference": report.verification.difference,
        "lowered": report.verification.lowered,
        "kept_class": type(small) is type(model),
        "replaced": report.replaced,
        "groups": len(report.groups),
        "reachable": deps.reachable(),
        "unknown": report.unknown,
        "times": report.seconds,
        "warnings": report.warnings,
    }
    with torch.no_grad():
        before, after = model(*args, **kwargs), small.eval()(*args, **kwargs)
    shapes = [
        [tuple(x.shape) for x in pytree.tree_leaves(y) if isinstance(x, torch.Tensor)]
        for y in (before, after)
    ]
    if report.warnings and "in parts" in report.warnings[0]:  # how much is found depends on values
        shapes = [[(len(shape),) for shape in found] for found in shapes]
    row["same_output"] = shapes[0] == shapes[1] and pytree.tree_structure(
        before
    ) == pytree.tree_structure(after)
    row["trains"] = _trains(small, args, kwargs)
    row["memory"] = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20
    return row


def _trains(model: Any, args: Any, kwargs: Any) -> bool | str:
    import torch
    from torch.utils import _pytree as pytree

    try:
        model.train()
        outputs = pytree.tree_leaves(model(*args, **kwargs))
        floats = [y for y in outputs if isinstance(y, torch.Tensor) and y.is_floating_point()]
        sum(y.square().mean() for y in floats).backward()  # type: ignore[union-attr]
        torch.optim.SGD(model.parameters(), lr=1e-4).step()
    except Exception as error:
        return f"{type(error).__name__}: {error}".splitlines()[0][:200]
    return True


def _child(name: str, ratio: float, of: str, gigabytes: float, pipe: Any) -> None:
    limit = int(gigabytes * 2**30)
    resource.setrlimit(resource.RLIMIT_DATA, (limit, limit))
    try:
        pipe.send(measure(name, ratio, of))
    except BaseException as error:
        lines = str(error).splitlines() or [""]
        detail = traceback.format_exc().splitlines()[-4:]
        pipe.send(
            {"model": name, "error": f"{type(error).__name__}: {lines[0]}"[:400], "trace": detail}
        )


def isolated(name: str, ratio: float, of: str, seconds: float, gigabytes: float) -> Row:
    """Measure one model in a process of its own."""
    context = multiprocessing.get_context("spawn")
    mine, theirs = context.Pipe()
    process = context.Process(target=_child, args=(name, ratio, of, gigabytes, theirs))
    process.start()
    theirs.close()
    try:
        row: Row = mine.recv() if mine.poll(seconds) else {"model": name, "error": "out of time"}
    except EOFError:
        row = {"model": name, "error": "the process died (out of memory?)"}
    process.kill()
    process.join()
    return row


def verdict(row: Row) -> str:
    """What verification found, in a word."""
    if "error" in row:
        return "FAILED"
    return "exact" if row["exact"] else f"exact but for {row['mixing']} norms"


def lines(rows: list[Row]) -> Iterator[str]:
    """A markdown table and its summary."""
    yield "| model | output | masking | class | achieved | groups | reachable | trains | s |"
    yield "|---|---|---|---|---|---|---|---|---|"
    for row in rows:
        if "error" in row:
            yield f"| {row['model']} | FAILED: {row['error']} |||||||"
            continue
        kind = "kept" if not row["replaced"] else f"{len(row['replaced'])} generated"
        if "" in row["replaced"]:
            kind = "generated"
        yield (
            f"| {row['model']} | {'same' if row['same_output'] else 'DIFFERENT'} | {verdict(row)} "
            f"| {kind} | {row['achieved']:.4f} | {row['groups']} | {row['reachable']:.3f} "
            f"| {'yes' if row['trains'] is True else row['trains']} | {row['seconds']:.1f} |"
        )
    good = [row for row in rows if "error" not in row]
    if not good:
        return
    kept = sum(not row["replaced"] for row in good)
    yield ""
    yield (
        f"{len(good)} of {len(rows)} run; same output structure "
        f"{sum(r['same_output'] for r in good)}; class kept with no generated submodule {kept}; "
        f"one training step works {sum(r['trains'] is True for r in good)}; "
        f"largest relative difference "
        f"{max(r['difference'] for r in good):.1e}; parameters reachable "
        f"{sum(r['reachable'] for r in good) / len(good):.1%} on average"
    )


def main() -> int:
    """Run the benchmark."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("models", nargs="+", help="names, or sets: " + ", ".join(SETS))
    parser.add_argument("--ratio", type=float, default=0.5)
    parser.add_argument("--of", default="params")
    parser.add_argument("--seconds", type=float, default=300, help="time limit for a model")
    parser.add_argument("--gigabytes", type=float, default=16, help="memory limit for a model")
    parser.add_argument("--skip", nargs="*", default=[], help="leave out names that contain this")
    parser.add_argument("--out", type=Path, help="write OUT.md and OUT.json")
    options = parser.parse_args()
    names = [n for entry in options.models for n in (SETS[entry]() if entry in SETS else [entry])]
    rows: list[Row] = []
    for name in names:
        if any(part in name for part in options.skip):
            continue
        row = isolated(name, options.ratio, options.of, options.seconds, options.gigabytes)
        rows.append(row)
        print(*list(lines([row]))[2:3], file=sys.stderr, flush=True)
        if options.out:
            options.out.with_suffix(".json").write_text(json.dumps(rows, indent=1, default=str))
            options.out.with_suffix(".md").write_text("\n".join(lines(rows)) + "\n")
    print("\n".join(lines(rows)))
    return int(any("error" in row for row in rows))


if __name__ == "__main__":
    raise SystemExit(main())

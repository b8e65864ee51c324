"""What becomes of one model that is shrunk with no option set, in one row of figures."""

from __future__ import annotations

import inspect
import resource
import tempfile
import time
import warnings
from contextlib import suppress
from pathlib import Path
from typing import Any, TypeAlias

import torch
from torch import nn
from torch.utils import _pytree as pytree
from zoo import build

Row: TypeAlias = dict[str, Any]


def measure(
    name: str, ratio: float, of: str, onnx: bool, trained: bool = False, effort: str = "auto"
) -> Row:
    """Shrink one model and describe what happened.

    Args:
        name: The model's name.
        ratio: The fraction to remove.
        of: Of which cost.
        onnx: Whether to export the result.
        trained: Whether gains and statistics are made to look trained: those that look untrained
            skip compensation, and hide its faults.
        effort: For compensation.
    """
    import graphprune

    warnings.filterwarnings("ignore")
    graphprune.shrink(nn.Sequential(nn.Linear(8, 8), nn.Linear(8, 8)))  # loads and compiles once
    start = memory()
    model, example = build(name)
    if trained:
        look_trained(model)
    size = sum(x.numel() * x.element_size() for x in model.state_dict().values())
    row: Row = {"model": name, "params": sum(p.numel() for p in model.parameters())}
    row |= {"megabytes": size / 2**20, "of": of, "asked": ratio}
    forget_peak()
    started = time.perf_counter()
    plan = graphprune.plan(model, ratio, of, example_inputs=example, compensate=False)
    plan.verify = False
    plan.apply()
    lean = time.perf_counter() - started
    assert plan.report is not None
    row["lean"] = [lean, plan.report.seconds["capture"]]
    row["memory_ratio"] = (memory() - start) / size
    started = time.perf_counter()
    plan = graphprune.plan(model, ratio, of, example_inputs=example, effort=effort)
    small = plan.apply()
    row["seconds"] = time.perf_counter() - started
    report = plan.report
    assert report is not None and report.verification is not None and plan.inputs is not None
    args, kwargs = plan.inputs
    deps = plan.live().deps
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
        "locks": report.locks,
        "times": report.seconds,
        "warnings": report.warnings,
        "compensation": report.compensation,
        "left": report.left,
        "same_output": _same_output(model, small, args, kwargs, bool(report.warnings)),
    }
    if hasattr(model, "save_pretrained") and name.startswith("hf:"):
        row["reloads"] = _reloads(small, args, kwargs)
        row["generates"] = _generates(small, kwargs)
    if onnx:
        row["onnx"] = _exports(small, args, kwargs)
        if row["onnx"] is not True and _exports(model, args, kwargs) is not True:
            row["onnx"] = f"nor does the original: {row['onnx']}"
    row["trains"] = _trains(small, args, kwargs)
    return row


def look_trained(model: nn.Module, seed: int = 0) -> None:
    """Move gains, offsets and statistics off the constants that they start at.

    What is one number throughout (ones, zeros, a layer scale of 1e-6) is drawn anew: gains from
    0.5 to 1.5, offsets and means from a normal of 0.1, variances from 0.5 to 1.5.

    Args:
        model: The model; modified.
        seed: For the draw.
    """
    draw = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for name, held in (*model.named_parameters(), *model.named_buffers()):
            statistic = name.endswith(("running_mean", "running_var"))
            if not held.is_floating_point() or not held.numel() or not held.isfinite().all():
                continue
            gain = isinstance(held, nn.Parameter) and held.squeeze().dim() == 1
            if not (statistic or gain):
                continue
            if (held != held.flatten()[0]).any():
                continue
            if float(held.flatten()[0]) == 0:
                held.copy_(0.1 * torch.randn(held.shape, generator=draw))
            else:
                held.copy_(0.5 + torch.rand(held.shape, generator=draw))


def memory() -> float:
    """Most memory that this process has held, in bytes."""
    try:
        lines = Path("/proc/self/status").read_text().splitlines()
        return next(float(line.split()[1]) * 2**10 for line in lines if line.startswith("VmHWM"))
    except OSError:
        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 2.0**10


def forget_peak() -> None:
    """Begin to measure peak memory anew, where the kernel allows it."""
    with suppress(OSError):
        Path("/proc/self/clear_refs").write_text("5")


def _same_output(model: Any, small: Any, args: Any, kwargs: Any, warned: bool) -> bool:
    with torch.no_grad():
        before, after = model(*args, **kwargs), small.eval()(*args, **kwargs)
    if pytree.tree_structure(before) != pytree.tree_structure(after):
        return False
    leaves = [
        [x for x in pytree.tree_leaves(y) if isinstance(x, torch.Tensor)] for y in (before, after)
    ]
    # How much a detector finds depends on values.
    shapes = [[x.dim() if warned else x.shape for x in found] for found in leaves]
    return shapes[0] == shapes[1]


def _trains(model: Any, args: Any, kwargs: Any) -> bool | str:
    if "targets" in inspect.signature(model.forward).parameters:
        kwargs = {**kwargs, "targets": [_target(image) for image in args[0]]}
    try:
        model.train()
        outputs = pytree.tree_leaves(model(*args, **kwargs))
        floats = [y for y in outputs if isinstance(y, torch.Tensor) and y.is_floating_point()]
        sum(y.square().mean() for y in floats).backward()  # type: ignore[union-attr]
        torch.optim.SGD(model.parameters(), lr=1e-4).step()
    except Exception as error:
        return _told(error)
    return True


def _target(image: torch.Tensor) -> dict[str, torch.Tensor]:
    """One object in an image, as detectors ask for it: whatever kind of detector it is."""
    height, width = image.shape[-2:]
    keypoints = torch.tensor([[[width / 3, height / 3, 1.0]] * 17])
    return {
        "boxes": torch.tensor([[0.0, 0.0, width / 2, height / 2]]),
        "labels": torch.tensor([1]),
        "masks": torch.ones(1, height, width, dtype=torch.uint8),
        "keypoints": keypoints,
    }


def _exports(model: Any, args: Any, kwargs: Any) -> bool | str:
    """Whether torch.onnx can export a model so that ONNX Runtime computes the same."""
    import onnxruntime

    model = model.eval()
    with torch.no_grad():
        wanted = [x for x in pytree.tree_leaves(model(*args, **kwargs)) if torch.is_tensor(x)]
    try:
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder) / "small.onnx"
            torch.onnx.export(
                model, args, path, kwargs=kwargs, dynamo=True, optimize=False, verbose=False
            )
            session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
    except Exception as error:
        return f"does not export: {_told(error)}"
    given = [x for x in pytree.tree_leaves((args, kwargs)) if torch.is_tensor(x)]
    feeds = {i.name: x.numpy() for i, x in zip(session.get_inputs(), given, strict=False)}
    try:
        found = [torch.from_numpy(x) for x in session.run(None, feeds)]
    except Exception as error:
        return f"does not run: {_told(error)}"
    if len(found) != len(wanted):
        return f"{len(found)} outputs where {len(wanted)} are wanted"
    worst = max(
        float((a.double() - b.double()).abs().max() / b.double().abs().max().clamp_min(1e-6))
        for a, b in zip(found, wanted, strict=True)
        if b.numel()
    )
    return True if worst < 1e-3 else f"differs by {worst:.1e}"


def _reloads(model: Any, args: Any, kwargs: Any) -> bool | str:
    """Whether `from_pretrained` gives back what `save_pretrained` wrote."""
    try:
        with tempfile.TemporaryDirectory() as folder, torch.no_grad():
            model.save_pretrained(folder)
            again = type(model).from_pretrained(folder).eval()
            first, second = (
                [x for x in pytree.tree_leaves(m(*args, **kwargs)) if torch.is_tensor(x)]
                for m in (model.eval(), again)
            )
        same = all(torch.allclose(a, b, 1e-4, 1e-5) for a, b in zip(first, second, strict=True))
        return same or "computes something else"
    except Exception as error:
        return _told(error)


def _generates(model: Any, kwargs: Any) -> bool | str | None:
    """Whether generation with a cache gives the tokens that it gives without; None if it cannot."""
    if not (hasattr(model, "generate") and getattr(model, "can_generate", lambda: False)()):
        return None
    main = getattr(model, "main_input_name", "input_ids")
    known = kwargs.items()
    inputs = {k: v for k, v in known if not k.startswith("decoder_") and k != "use_cache"}
    if main not in inputs:
        return f"no {main}"
    options: dict[str, Any] = {"max_new_tokens": 5, "do_sample": False, "num_beams": 1}
    # Random weights may make a token that stands for an image, of which there are no more.
    marks = [
        getattr(model.config, f"{kind}_token_id", None) for kind in ("image", "video", "audio")
    ]
    options["suppress_tokens"] = [mark for mark in marks if isinstance(mark, int)] or None
    try:
        found = [model.generate(**inputs, **options, use_cache=used) for used in (True, False)]
        return bool(torch.equal(*found)) or "other tokens with the cache"
    except Exception as error:
        return _told(error)


def peer(name: str, ratio: float) -> Row:
    """Let Torch-Pruning do it as its README does, with no option but the last layer's name.

    It removes the share of every layer's channels that leads to about the ratio of parameters.
    """
    import torch_pruning as tp

    warnings.filterwarnings("ignore")
    model, example = build(name)
    if example is None:
        from graphprune.frontends.torch.inputs import find_inputs

        args, kwargs = find_inputs(model)
        example = kwargs or args
    args, kwargs = ((), example) if isinstance(example, dict) else (example, {})
    args = args if isinstance(args, tuple) else (args,)
    with torch.no_grad():
        before = model(*args, **kwargs)
    count = sum(p.numel() for p in model.parameters())
    last = [m for m in model.modules() if isinstance(m, nn.Linear | nn.Conv2d)][-1]
    started = time.perf_counter()
    pruner: Any = tp.pruner.BasePruner(
        model,
        kwargs or args,
        importance=tp.importance.GroupMagnitudeImportance(),
        pruning_ratio=1 - (1 - ratio) ** 0.5,
        ignored_layers=[last],
    )
    pruner.step()
    row: Row = {"model": name, "seconds": time.perf_counter() - started}
    row["achieved"] = 1 - sum(p.numel() for p in model.parameters()) / count
    with torch.no_grad():
        after = model(*args, **kwargs)
    shapes = [
        [x.shape for x in pytree.tree_leaves(y) if torch.is_tensor(x)] for y in (before, after)
    ]
    if shapes[0] != shapes[1]:
        row["error"] = "the output changed its shape"
    elif row["achieved"] < 0.05:
        row["error"] = "nothing was removed"
    return row


def _told(error: Exception) -> str:
    lines = str(error).splitlines() or [""]
    return f"{type(error).__name__}: {lines[0]}"[:200]

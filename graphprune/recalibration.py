"""recalibrate: the same smaller shape, solved again for other data."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace
from typing import Any, TypeVar
from weakref import WeakKeyDictionary

from torch import nn

from graphprune.core.errors import GraphPruneError
from graphprune.frontends.onnx import is_onnx
from graphprune.frontends.torch.inference import undisturbed
from graphprune.models import given_data
from graphprune.pipeline import Work, run
from graphprune.pipelines import DEFAULT
from graphprune.report.made import reported
from graphprune.report.report import Report
from graphprune.report.restored import restored
from graphprune.statistics.batches import read_batches

M = TypeVar("M", bound=nn.Module)

_CHECKS = ("verify", "measure")  # passes that look at the model, which has been done

_made: WeakKeyDictionary[nn.Module, Work] = WeakKeyDictionary()


def remember(small: nn.Module, work: Work) -> None:
    """Keep what a model was made from, for as long as the model lives."""
    _made[small] = work


def report_of(small: Any) -> Report:
    """The report of a smaller model.

    Args:
        small: A module that `shrink` or `Plan.apply` made in this process; or an ONNX model, as a
            file or a `ModelProto`, made whenever: its metadata hold the report, without curves.

    Raises:
        GraphPruneError: A module was not made in this process: a plan that was saved tells more.
            Or the file holds no report.

    Example::

        small = graphprune.shrink(model, 0.5)
        print(graphprune.report_of(small))
    """
    if is_onnx(small):
        from graphprune.frontends.onnx.notes import note_of

        data, size = note_of(small, "report")
        found = restored(data)
        if found.bytes is not None:
            found.bytes = (found.bytes[0], size)  # with the metadata themselves
        return found
    return reported(made_from(small))


def was_made(small: nn.Module) -> bool:
    """Whether a model was made by graphprune in this process."""
    return small in _made


def made_from(small: nn.Module) -> Work:
    """What a smaller model was made from; errors as for `report_of`."""
    work = _made.get(small) if isinstance(small, nn.Module) else None
    if work is None:
        raise GraphPruneError(
            f"this {type(small).__name__} was not made by graphprune in this process: apply its "
            "plan to the original again, graphprune.load_plan(path).apply(model, data=data), and "
            "look at plan.report"
        )
    return work


@undisturbed
def recalibrate(small: M, data: Iterable[Any]) -> M:
    """Fit a smaller model to other data, after a domain shift.

    The weights are solved for once more from those of the original model, for the same
    channels: the original and its samples decide, not what happened to `small` since. The
    original's weights are kept in memory for as long as `small` lives.

    Args:
        small: A model that `shrink` or `Plan.apply` made in this process; not modified.
        data: Inputs to take statistics from; labels are not needed.

    Returns:
        A model of the same class and shape.

    Raises:
        GraphPruneError: It is not known what `small` was made from, or the data do not fit.

    Example::

        small = graphprune.shrink(model, 0.5, data=days)
        for_nights = graphprune.recalibrate(small, nights)
    """
    work = made_from(small)
    options = replace(work.asked.options, compensate=True)
    batches = read_batches(given_data(data, small, work.program.inputs), small, options.samples())
    again = work.again(batches, options.reading(batches))
    for step in again.pipeline or DEFAULT:
        if step.makes and step.name not in _CHECKS:
            run(step, again)
    made: M = again.program.finish(again.expressed, again.lowered, check=False)
    remember(made, again)
    made.train(small.training)
    return made

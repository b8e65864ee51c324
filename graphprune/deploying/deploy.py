"""deploy: shrink, recover, quantise and export in one call, each stage measured."""

from __future__ import annotations

import inspect
import os
import tempfile
from collections.abc import Mapping
from contextlib import nullcontext
from pathlib import Path
from typing import Any

from torch import nn

from graphprune.core.callers import check_function
from graphprune.core.errors import GraphPruneError, OptionError, nearest
from graphprune.core.files import as_path, check_target, write_whole
from graphprune.core.progress import interruptible
from graphprune.costs.registry import Counting
from graphprune.deploying.deployed import STEEP, Deployed, low, steep
from graphprune.deploying.stages import Metric, Stages
from graphprune.frontends.torch.inputs import as_inputs
from graphprune.frontends.torch.wrapped import loaded
from graphprune.models import given, given_data
from graphprune.options import PlanOptions, check_options
from graphprune.quantising.quantise import AUTO, KINDS
from graphprune.quantising.written import check_float
from graphprune.training.recover import recover as recovered
from graphprune.training.tried import check_numbers


def deploy(
    model: Any,
    ratio: float | None = None,
    of: str | Counting = "params",
    *,
    out: str | os.PathLike[str],
    data: Any = None,
    recover: bool | Mapping[str, Any] = False,
    int8: bool | str = True,
    names: bool = False,
    metric: Metric | None = None,
    folder: str | os.PathLike[str] | None = None,
    **options: Any,
) -> Deployed:
    """Shrink a model, recover its accuracy, quantise it, and write it as an ONNX file.

    Args:
        model: A module, an exported program or an ONNX model, as for `graphprune.shrink`; not
            modified.
        ratio: As for `graphprune.shrink`: a half where nothing else decides.
        of: As for `graphprune.shrink`.
        out: The `.onnx` file to write; written whole or not at all.
        data: Data for statistics, recovery and calibration; inputs are made where not given. A
            loader is read anew in each pass of the recovery. A generator serves once: pass a list
            or a loader.
        recover: Whether `graphprune.recover` trains the smaller module; options for it may be
            given as a dict.
        int8: Whether the result is quantised (`graphprune.quantise`): True, by the kind that is
            best on this machine (`kind="auto"`); or one of its kinds.
        names: Whether values inside the int8 file keep their names, as for `graphprune.quantise`.
        metric: Judges every stage; see `Metric`.
        folder: Where stages are kept, so that a call that was interrupted goes on behind the last
            stage that was done; made if it does not exist. None: nowhere.
        **options: As for `graphprune.plan`.

    Returns:
        The stages with sizes, agreement, metric and time; `print` shows them as a table.

    Raises:
        OptionError: A value is none that could be meant.
        GraphPruneError: A stage fails, or `folder` holds another deployment.

    Example::

        done = graphprune.deploy(model, ratio=0.5, data=loader, recover=True, out="small.onnx")
        print(done)
    """
    target = check_target(out, (".onnx",))
    if not isinstance(recover, bool | Mapping):
        raise OptionError("recover is True or False, or a dict of options for recover")
    if isinstance(recover, Mapping):
        _check_recovery(recover)
    if not isinstance(int8, bool) and int8 not in (*KINDS, AUTO):
        raise OptionError(f"int8 is True, False or one of {', '.join(KINDS)}, not {int8!r}")
    if not isinstance(names, bool):
        raise OptionError(f"names is True or False, not {names!r}")
    check_function("metric", metric, "predict")
    check_options(options, PlanOptions, "deploy")
    model = loaded(given(model))
    if recover is not False and not isinstance(model, nn.Module):
        raise OptionError("recover= trains a module: pass the module rather than a file of it")
    made = options.pop("verify", True)
    if int8:
        check_float(model)
    kept = "nothing is kept; with folder=, the same call goes on behind the last stage"
    if folder is not None:
        kept = f"stages that were finished are kept in {folder}, and the same call goes on"
    data = given_data(data, model, as_inputs(options.get("example_inputs")))
    with interruptible(lambda: kept), _place(folder) as place:
        run = Stages(
            model, Path(place), data, metric, (ratio, of, {**options, "verify": made}), names
        )
        run.check(recover, int8)
        run.stage("original", run.export)
        run.stage("shrink", run.shrink)
        if recover is not False:
            run.stage("recover", lambda: run.recover({} if recover is True else dict(recover)))
        if int8:
            run.stage("int8", lambda: run.quantise(AUTO if int8 is True else str(int8)))
        done = Deployed(target, run.stages, run.macs, run.notes)
        if why := low(run.stages[-1], recover is not False):
            done.warnings.append(why)
        if done.compression > STEEP:
            done.warnings.append(steep(done.compression))
        write_whole(target, run.last.read_bytes())
    return done


def _check_recovery(asked: Mapping[str, Any]) -> None:
    """Refuse options of `recover` before the work.

    Raises:
        OptionError: There is no such option, or a number is none that could be meant.
    """
    parameters = inspect.signature(recovered).parameters.values()
    known = {each.name: each.default for each in parameters if each.kind is each.KEYWORD_ONLY}
    for name in asked:
        if name not in known:
            raise OptionError(f"recover has no option {name!r}: {nearest(name, known)}")
    numbers = ("epochs", "batch_size", "rate", "temperature", "seconds")
    check_numbers(*({**known, **asked}[name] for name in numbers))


def _place(folder: str | os.PathLike[str] | None) -> Any:
    """The folder of the stages: the caller's, or one that goes afterwards."""
    if folder is None:
        return tempfile.TemporaryDirectory()
    path = as_path(folder)
    if path.exists() and not path.is_dir():
        raise GraphPruneError(f"folder={path} is a file")
    try:
        path.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise GraphPruneError(f"folder={path} cannot be made: {error.strerror}") from error
    return nullcontext(str(path))

"""One thread each, and tests that share what is dear to make in the same process."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from functools import cache
from typing import Any

import pytest
import torch

from graphprune.compensation import forecast
from graphprune.statistics.made import descend, imitate, plain, sample

# On tensors this small, more threads only wait for each other.
torch.set_num_threads(1)

_TOGETHER = {
    "tests/rules/": "rules",  # every case of a rule is captured once, and all of them ...
    "tests/testing/test_check.py": "rules",  # ... are counted here
}


# Seconds that a descent and the making of inputs may take where no effort is named: 40 and 120
# otherwise. What they gain is tested by tests that ask for them.
_DESCENT, _MAKING = 0.3, 2.0


@pytest.fixture(autouse=True, scope="session")
def one_registry() -> Iterator[None]:
    """Let PyTorch's exporter collect its table of operators once, not anew at each export."""
    try:
        from torch.onnx._internal.exporter._registration import ONNXRegistry
    except ImportError:  # another version of PyTorch: tests take longer
        yield
        return
    with pytest.MonkeyPatch.context() as patch:
        once = staticmethod(cache(ONNXRegistry.from_torchlib))
        patch.setattr(ONNXRegistry, "from_torchlib", once)
        yield


@pytest.fixture(autouse=True, scope="session")
def little_time() -> Iterator[None]:
    pictures = cache(plain.painted)

    def painted(number: int, shape: Sequence[int], seed: int) -> torch.Tensor:
        """The same pictures for the same seed, painted once."""
        return pictures(number, tuple(shape), seed).clone()

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(forecast, "POLISH_SECONDS", _DESCENT)
        patch.setattr(sample, "LONGEST_SECONDS", _MAKING)
        for module in (plain, imitate, descend):
            patch.setattr(module, "painted", painted)
        yield


@pytest.hookimpl(optionalhook=True)  # of pytest-xdist, with `-n`
def pytest_xdist_make_scheduler(config: pytest.Config, log: Any) -> Any:
    """Hand out whole files, or folders, so that what their fixtures make is made once."""
    from xdist.scheduler import LoadScopeScheduling

    class Files(LoadScopeScheduling):
        def _split_scope(self, nodeid: str) -> str:
            path = nodeid.partition("::")[0]
            groups = (group for start, group in _TOGETHER.items() if path.startswith(start))
            return next(groups, path)

    return Files(config, log)

"""One thread each, and tests that share what is dear to make in the same process."""

from __future__ import annotations

from typing import Any

import pytest
import torch

# On tensors this small, more threads only wait for each other.
torch.set_num_threads(1)

_TOGETHER = {
    "tests/rules/": "rules",  # every case of a rule is captured once, and all of them ...
    "tests/testing/test_check.py": "rules",  # ... are counted here
}


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

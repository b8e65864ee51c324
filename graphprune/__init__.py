"""graphprune: shrinks neural networks for deployment.

Examples:
    >>> import torch, graphprune
    >>> net = torch.nn.Sequential(torch.nn.Linear(8, 16), torch.nn.ReLU(), torch.nn.Linear(16, 4))
    >>> small = graphprune.shrink(net, ratio=0.5)
"""

import random
from importlib import import_module
from typing import TYPE_CHECKING, Any

_drawn = random.getstate()
import_module("rich.style")  # draws a number when it is first imported
random.setstate(_drawn)

if TYPE_CHECKING:
    from graphprune.public import *  # noqa: F403
else:  # PyTorch takes seconds to import, which `graphprune --help` has no use for

    def __getattr__(name: str) -> Any:
        if not name.startswith("_") or name in ("__all__", "__version__"):
            found = vars(import_module("graphprune.public"))
            names = found.get("__all__", ())  # none while it is being imported
            globals().update({key: found[key] for key in names}, __all__=names)
            if name in globals():
                return globals()[name]
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")

    def __dir__() -> list[str]:
        return sorted({*globals(), *__getattr__("__all__")})

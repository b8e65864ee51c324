"""Modules whose forward is generated code, kept as source text.

Unlike an fx.GraphModule they can be deep-copied and pickled whole: attributes, weights that only
training mode uses, and the dependence on train/eval mode survive.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from torch import fx, nn
from torch.fx.graph_module import _format_import_block
from torch.package.importer import sys_importer


class GeneratedModule(nn.Module):
    """Base of generated modules; each has a class of its own, made by `generated`.

    Attributes:
        source: The Python source of `forward`, with its imports.
    """

    source: str

    def __reduce_ex__(self, protocol: object) -> tuple[Any, ...]:
        """Rebuild the class from its source."""
        return _blank, (type(self).__name__, self.source), self.__dict__


def generated(name: str, graph: fx.Graph) -> GeneratedModule:
    """Make a module without weights whose forward is a graph.

    Args:
        name: Name of its class.
        graph: The code; `get_attr` nodes name attributes to be set later.
    """
    code = graph.python_code("self")
    return _blank(name, _format_import_block(code.globals, sys_importer) + "\n" + code.src)


def _blank(name: str, source: str) -> GeneratedModule:
    made = type(name, (GeneratedModule,), {"forward": _compiled(name, source), "source": source})
    module: GeneratedModule = made()
    return module


def _compiled(name: str, source: str) -> Callable[..., Any]:
    namespace: dict[str, Any] = {}
    exec(compile(source, f"<generated {name}>", "exec"), namespace)
    return namespace["forward"]  # type: ignore[no-any-return]

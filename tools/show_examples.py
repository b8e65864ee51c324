"""For mkdocs (`hooks:` in mkdocs.yml): each notebook of `docs/examples/` is a page as well."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parent))  # mkdocs runs this file by itself

from run_examples import as_markdown, notebooks, read


def on_files(files: Any, config: Any) -> Any:
    """Add a page for each notebook; mkdocs calls this."""
    from mkdocs.structure.files import File

    for path in notebooks():
        name = f"examples/{path.stem}.md"
        files.append(File.generated(config, name, content=as_markdown(read(path))))
    return files

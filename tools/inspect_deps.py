#!/usr/bin/env python
"""Why are these layers coupled? Prints the coupled groups of a model.

    python tools/inspect_deps.py resnet18
    python tools/inspect_deps.py timm:vit_tiny_patch16_224 --layer 'blocks.0.*'
    python tools/inspect_deps.py resnet18 --why layer1.0.conv2 layer1.1.conv2
    python tools/inspect_deps.py pkg.mod:factory --dot groups.dot --graphml groups.graphml

The same as `graphprune inspect`, from a checkout.
"""

from __future__ import annotations

import sys
from pathlib import Path

if __name__ == "__main__":
    sys.path.insert(0, str(Path(__file__).resolve().parent.parent))
    from graphprune.cli import main

    sys.argv.insert(1, "inspect")
    main()

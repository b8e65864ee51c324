"""Pictures of sweeps and sensitivities: words lie beside what is drawn."""

from __future__ import annotations

import re
from itertools import pairwise

import numpy as np
import pytest

from graphprune.report.plots import Dot, curves


def _lines(seed: int) -> list[list[Dot]]:
    """Three curves of the same worths at sizes in proportion, as weights in fewer bits give."""
    random = np.random.default_rng(seed)
    worths = np.sort(random.uniform(0.5, 1.0, 4))
    sizes = np.sort(random.uniform(50, 400, 4))
    return [
        [Dot(float(x * part), float(y), "", True) for x, y in zip(sizes, worths, strict=True)]
        for part in (1.0, 0.26, 0.14)
    ]


@pytest.mark.parametrize("seed", range(8))
def test_names_of_lines_lie_over_no_line(seed: int) -> None:
    names = ["32 bits", "8 bits", "4 bits"]
    svg = curves(_lines(seed), names, "kB", "metric").svg
    strokes = []
    for text in re.findall(r'points="([^"]+)"', svg):
        ends = np.array([[float(x) for x in pair.split(",")] for pair in text.split()])
        for start, stop in pairwise(ends):
            strokes += [start + (stop - start) * t for t in np.linspace(0, 1, 50)]
    boxes = []
    for name in names:
        x, y = map(float, re.findall(rf'<text x="([\d.]+)" y="([\d.]+)"[^>]*>{name}<', svg)[0])
        left, top = x - 5 * len(name), y - 9
        assert left > 0 and top > 0
        assert not [1 for a, b in strokes if left < a < x and top < b < y]
        boxes.append((left, top, x, y))
    for i, (left, top, right, low) in enumerate(boxes):
        for other in boxes[i + 1 :]:
            assert right <= other[0] or other[2] <= left or low <= other[1] or other[3] <= top

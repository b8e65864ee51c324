"""Functions whose rules are checked, and what to call them with: one table for every family."""

from __future__ import annotations

from tests.rules import cases_elementwise, cases_layers, cases_shapes, cases_space
from tests.rules.tensors import Case

CASES: dict[str, Case] = {
    **cases_elementwise.CASES,
    **cases_layers.CASES,
    **cases_space.CASES,
    **cases_shapes.CASES,
}

"""Every operator that ONNX and ONNX Runtime define has a rule, or is locked on purpose."""

from __future__ import annotations

import onnx.defs

from graphprune.rules import known_types, locked_types


def test_no_operator_of_onnx_is_missing() -> None:
    names = {
        f"{schema.domain}::{schema.name}" if schema.domain else schema.name
        for schema in onnx.defs.get_all_schemas()
    }
    assert names - set(known_types()) == set()


def test_no_operator_of_the_runtime_is_missing() -> None:
    from onnxruntime.capi.onnxruntime_pybind11_state import get_all_operator_schema

    schemas = get_all_operator_schema()
    names = {f"{s.domain}::{s.name}" for s in schemas if s.domain == "com.microsoft"}
    assert names - set(known_types()) == set()


def test_reasons_are_words() -> None:
    assert all(len(why.split()) > 2 for why in locked_types().values())

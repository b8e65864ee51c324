"""Which operations results need, those that write in place among them."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence

from graphprune.core.graph import Op, Value
from graphprune.frontends.torch.execute import writes


def needed_for(wanted: Sequence[Value], ops: Sequence[Op], given: Collection[Value]) -> list[Op]:
    """The operations between the inputs and the results, in order.

    An operation that writes in place belongs if what it writes to shares memory with
    anything needed.
    """
    makers = {value: op for op in ops for value in op.outputs}
    needed: set[Op] = set()
    todo = list(wanted)
    while todo:
        while todo:
            value = todo.pop()
            op = makers.get(value)
            if value not in given and op is not None and op not in needed:
                needed.add(op)
                todo.extend(v for v in op.inputs if v is not None)
        memory = {_base(v, makers) for op in needed for v in op.outputs}
        todo = [
            value
            for op in ops
            if op not in needed and writes(op) and _base(op.outputs[0], makers) in memory
            for value in op.outputs
            if value not in given
        ]
    return [op for op in ops if op in needed]


def _base(value: Value, makers: Mapping[Value, Op]) -> Value:
    """The value that a view, or the result of an in-place operation, shares its memory with."""
    op = makers.get(value)
    schema = getattr(op.source.target, "_schema", None) if op is not None else None
    if op is None or schema is None or not schema.returns or not op.inputs:
        return value
    shares = schema.returns[0].alias_info is not None
    return _base(op.inputs[0], makers) if shares and op.inputs[0] is not None else value

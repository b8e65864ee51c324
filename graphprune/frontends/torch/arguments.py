"""How lengths are given to torch functions: where they stand among the arguments."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from itertools import accumulate
from typing import Any, Protocol

from graphprune.core.graph import Op
from graphprune.frontends.torch.tagged import Tagged


class Settler(Protocol):
    """Decides what becomes of a size that a call was given."""

    def settle(self, op: Op, given: Any, wanted: Any) -> Any:
        """The size to use, after comparing the given one with the wanted one."""

    def unequal(self, op: Op, sizes: Sequence[int]) -> None:
        """Report segments that should be of equal length."""


Rewrite = Callable[[Settler, Op, Any, Any, Any], tuple[Any, Any]]


def _sizes(guide: Settler, op: Op, wanted: Any, args: Any, kwargs: Any) -> tuple[Any, Any]:
    """Sizes as one sequence or as the trailing integers."""
    for i, arg in enumerate(args):
        if _are_sizes(arg, wanted):
            new = [guide.settle(op, g, w) for g, w in zip(arg, wanted, strict=True)]
            return (*args[:i], new, *args[i + 1 :]), kwargs
    start = len(args) - len(wanted)
    tail = args[max(start, 0) :]
    if start >= 0 and all(isinstance(item, int) for item in tail):
        new = [guide.settle(op, g, w) for g, w in zip(tail, wanted, strict=True)]
        return (*args[:start], *new), kwargs
    for name, held in kwargs.items():
        if _are_sizes(held, wanted):
            new = [guide.settle(op, g, w) for g, w in zip(held, wanted, strict=True)]
            return args, {**kwargs, name: new}
    return args, kwargs


def _are_sizes(given: Any, wanted: Sequence[int]) -> bool:
    """Whether an argument holds as many integers as there are sizes (an index may hold slices)."""
    if not isinstance(given, tuple | list) or len(given) != len(wanted):
        return False
    return all(isinstance(item, int) for item in given)


def _scalar(*names: str) -> Rewrite:
    """One integer, by keyword or as the positional argument that has the captured value."""

    def rewrite(guide: Settler, op: Op, wanted: Any, args: Any, kwargs: Any) -> tuple[Any, Any]:
        for name in names:
            if isinstance(kwargs.get(name), int):
                return args, {**kwargs, name: guide.settle(op, kwargs[name], wanted)}
        captured = next((op.attrs[name] for name in names if name in op.attrs), None)
        places = [i for i, a in enumerate(args) if type(a) in (int, Tagged)]
        tagged = [i for i in places if isinstance(args[i], Tagged)]
        for i in [*tagged, *(i for i in places if args[i] in (captured, wanted))][:1]:
            return (*args[:i], guide.settle(op, args[i], wanted), *args[i + 1 :]), kwargs
        return args, kwargs

    return rewrite


def _splits(guide: Settler, op: Op, wanted: Any, args: Any, kwargs: Any) -> tuple[Any, Any]:
    """A list of segment sizes or of the positions between them, one size for all, or a count."""
    name = next((n for n in _SPLITS if n in kwargs), None)
    given = kwargs[name] if name else args[1]
    if isinstance(given, tuple | list):
        places = [*accumulate(wanted)][:-1] if op.type == "aten.tensor_split" else wanted
        new: Any = [guide.settle(op, g, w) for g, w in zip(given, places, strict=True)]
    elif op.type.endswith(("chunk", "tensor_split")):
        size = -(-sum(wanted) // int(given))
        if not _equal_segments(wanted, size):
            guide.unequal(op, wanted)
        new = given
    else:
        new = guide.settle(op, given, wanted[0])
        if not _equal_segments(wanted, wanted[0]):
            guide.unequal(op, wanted)
    if name:
        return args, {**kwargs, name: new}
    return (args[0], new, *args[2:]), kwargs


_SPLITS = (
    *("split_size_or_sections", "split_size", "chunks"),
    *("indices_or_sections", "indices", "sections"),
)


def _equal_segments(sizes: Sequence[int], size: int) -> bool:
    return all(s == size for s in sizes[:-1]) and sizes[-1] <= size


def _bounds(position: str) -> Rewrite:
    """An index or the bounds of a slice, in `x[...]`, `narrow` or `select`."""

    def rewrite(guide: Settler, op: Op, wanted: Any, args: Any, kwargs: Any) -> tuple[Any, Any]:
        if not (len(args) > 1 and isinstance(args[1], tuple | slice | int)):
            return args, kwargs
        if position == "index" and len(args) == 3:  # select: the dimension, and then the index
            return (*args[:2], guide.settle(op, args[2], wanted)), kwargs
        items = list(args[1]) if isinstance(args[1], tuple) else [args[1]]
        captured = op.attrs.get(position)
        for i, item in enumerate(items):
            held = item if position == "index" else getattr(item, _SLICE[position], None)
            if isinstance(held, bool) or not isinstance(held, int):
                continue
            if held not in (captured, wanted) and not _at(items, i, op):
                continue
            new = guide.settle(op, held, wanted)
            items[i] = new if position == "index" else _resliced(item, position, new)  # type: ignore[arg-type]
            break
        index = tuple(items) if isinstance(args[1], tuple) else items[0]
        return (args[0], index, *args[2:]), kwargs

    return rewrite


def _at(items: Sequence[Any], place: int, op: Op) -> bool:
    """Whether an index stands where its operation says, all that come before being slices."""
    before, at = items[:place], op.attrs.get("dim") or 0
    if Ellipsis in before:  # which stands for as many dimensions as there are more
        rank = 0 if op.inputs[0] is None else len(op.inputs[0].shape)
        plain = [item for item in items if item is not Ellipsis]
        return all(isinstance(x, slice) for x in plain) and at % rank == rank - len(items) + place
    return all(isinstance(item, slice) for item in before) and at == place


_SLICE = {"start": "start", "end": "stop"}


def _resliced(item: slice, position: str, new: int) -> slice:
    if position == "start":
        return slice(new, item.stop, item.step)
    return slice(item.start, new, item.step)


REWRITES: dict[str, Rewrite] = {
    "size": _sizes,
    "shape": _sizes,
    "sizes": _sizes,
    "repeats": lambda guide, op, wanted, args, kwargs: (
        _sizes if isinstance(wanted, list) else _scalar("repeats")
    )(guide, op, wanted, args, kwargs),
    "dims": _sizes,
    "normalized_shape": _sizes,
    "pad": _sizes,
    "groups": _scalar("groups"),
    "num_groups": _scalar("num_groups"),
    "n": _scalar("n"),
    "m": _scalar("m"),
    "split_sizes": _splits,
    "start": _bounds("start"),
    "end": _bounds("end"),
    "index": _bounds("index"),
}

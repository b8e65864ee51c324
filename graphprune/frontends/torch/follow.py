"""follow: what of a module's own code depends on its inputs' sizes, their type, and the mode.

A captured graph holds numbers. Which of them the code took from the batch size, the size of an
image, the type or the mode, one capture does not tell: the module is captured alone, again and
again, with other sizes, another type and in training mode, and the operations are held against
those of the graph. A number that changes is to follow, if a simple law tells how (a power of the
size, or a multiple of it); where none does, or where the code takes another path, generated code
must refuse the size, the type or the mode.
"""

from __future__ import annotations

import copy
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from math import isclose
from typing import Any, NamedTuple, TypeAlias

import torch
from torch import fx, nn
from torch.utils import _pytree as pytree

from graphprune.core.axes import Axis, atoms, leaves, length
from graphprune.core.cuts import Cuts
from graphprune.core.graph import Op, Value
from graphprune.engine.state import preserved, quiet
from graphprune.frontends.torch.findings import Call
from graphprune.frontends.torch.lift import CapturedModule
from graphprune.frontends.torch.reader import bound_arguments

_POWERS = (1, -1, 0.5, -0.5, 2, -2)
_TYPES = (torch.float64, torch.float16, torch.bfloat16)
_LONGER = (2, 3)  # times a size that is not the batch's: patches, strides and windows divide it
_MORE = (1, 3)  # samples more than the batch that was captured
_DROPOUT = torch.ops.aten.dropout.default
_WRAPPERS = ("wrap_with_set_grad_enabled", "wrap_with_autocast")


@dataclass(frozen=True)
class Length:
    """A factor of a number: a power of an input's size.

    Attributes:
        value: The input.
        dim: Its dimension.
        size: The size when the model was captured, without `rest`.
        rest: What the dimension holds besides (windows of each sample).
        power: The power.
        step: For a number that grows by a multiple of the size: what it grows by.
        whole: Whether the number is an integer.
    """

    value: Value
    dim: int
    size: int
    rest: int
    power: float = 1
    step: int | None = None
    whole: bool = True

    def of(self, number: Any, size: int) -> Any:
        """The number at another size."""
        if self.step is not None:
            return number + (size - self.size) * self.step
        if self.whole and self.power == 1:
            return size * number // self.size
        return number * (size / self.size) ** self.power


Lengths: TypeAlias = "list[Length] | list[list[Length]]"


@dataclass
class Follows:
    """What generated code takes from its inputs again, and what it refuses.

    Attributes:
        lengths: For attributes of operations, the sizes that they follow.
        modes: Attributes that follow the mode, and what they are in training mode.
        dropouts: Operations whose result is dropped from in training mode only, and how much.
        dtypes: Attributes that follow the type of an input.
        without_gradients: Operations that the code runs without gradients.
        fixed: Inputs, dimensions and the sizes that they must have.
        types: The types that the first input of floating point may have; None for any.
        evaluated: Whether training mode is refused.
    """

    lengths: dict[Op, dict[str, Lengths]] = field(default_factory=dict)
    modes: dict[Op, dict[str, Any]] = field(default_factory=dict)
    dropouts: dict[Op, float] = field(default_factory=dict)
    dtypes: dict[Op, dict[str, Value]] = field(default_factory=dict)
    without_gradients: set[Op] = field(default_factory=set)
    fixed: list[tuple[Value, int, int]] = field(default_factory=list)
    types: tuple[torch.dtype, ...] | None = None
    evaluated: bool = False


class _Size(NamedTuple):
    """A size of the inputs that may become another: an axis, and where it is read."""

    axis: Axis
    value: Value
    dim: int
    rest: int
    batch: bool

    def others(self) -> list[int]:
        """Other sizes to try."""
        if self.batch:
            return [self.axis.size + more for more in _MORE]
        return [self.axis.size * times for times in _LONGER]


def follow(
    captured: CapturedModule,
    path: str,
    call: Call,
    ops: Sequence[Op],
    needed: Collection[Op],
    aside: set[str],
    cuts: Cuts,
    rigid: bool = False,
) -> Follows:
    """Find out what a module's own code follows.

    Args:
        captured: The captured model.
        path: The module's path.
        call: The call of it, in terms of the graph's values.
        ops: The operations of its own code, in order.
        needed: Those of them that its results depend on.
        aside: Paths of modules inside whose code is not its own: those that it calls as such, and
            those that it does without.
        cuts: The narrowed graph.
        rigid: Whether to follow nothing: sizes, type and mode are those of the capture.
    """
    found = Follows()
    if not needed:
        return found
    alone = _Alone(captured, path, call, aside, cuts)
    sizes = list(_sizes(call, cuts))
    base = None if rigid else alone.traced({})
    if base is None or not _same(ops, base) or not set(needed) <= set(ops):
        found.fixed = [(size.value, size.dim, size.axis.size * size.rest) for size in sizes]
        found.types, found.evaluated = alone.types(), True
        return found
    search = _Search(ops, needed, base, alone, cuts, found)
    for size in sizes:
        search.vary(size)
    search.together()
    search.types()
    search.modes()
    return found


class _Search:
    """Captures that are held against the graph's operations."""

    def __init__(
        self,
        ops: Sequence[Op],
        needed: Collection[Op],
        base: list[_Step],
        alone: _Alone,
        cuts: Cuts,
        found: Follows,
    ) -> None:
        self._ops = ops
        self._needed = set(needed)
        self._base = base
        self._alone = alone
        self._cuts = cuts
        self._found = found
        self._followed: list[_Size] = []
        found.without_gradients = {
            op for op, step in zip(ops, base, strict=True) if not step.grad and op in self._needed
        }

    def vary(self, size: _Size) -> None:
        """Find the laws by which numbers follow one size, or fix it."""
        tried: list[tuple[int, list[_Step]]] = []
        for new in size.others():
            steps = self._alone.traced({size.axis: new})
            if steps is not None and not _same(self._ops, steps):
                return self._fix(size)  # the code takes another path
            if steps is not None:
                tried.append((new, steps))
        if not tried:
            return self._fix(size)
        laws: dict[tuple[Op, str], Lengths] = {}
        for at, op in self._places():
            for attr, number in self._base[at].given.items():
                others = [(new, steps[at].given[attr]) for new, steps in tried]
                if all(other == number for _, other in others):
                    continue
                law = _law(size, number, others)
                known = self._found.lengths.get(op, {}).get(attr)
                if law is None or not self._holds(op, attr, law, known):
                    return self._fix(size)
                laws[op, attr] = _joined(known, law)
        for (op, attr), law in laws.items():
            self._found.lengths.setdefault(op, {})[attr] = law
        self._followed.append(size)
        return None

    def _holds(self, op: Op, attr: str, law: Lengths, known: Lengths | None) -> bool:
        """Whether a law holds of a narrowed number too, and beside the laws of other sizes."""
        steps = [one.step is not None for one in _flat(law)]
        others = [one.step is not None for one in _flat(known or [])]
        return not any(steps) or (
            attr not in self._cuts.attrs.get(op, {}) and all(steps) and all(others)
        )

    def _fix(self, size: _Size) -> None:
        self._found.fixed.append((size.value, size.dim, size.axis.size * size.rest))

    def together(self) -> None:
        """See that numbers which follow several sizes do so when all change at once."""
        if len(self._followed) < 2:
            return
        both = [laws for attrs in self._found.lengths.values() for laws in attrs.values()]
        if all(len({one.value for one in _flat(laws)} | {one.dim for one in _flat(laws)}) < 3
               and len(_flat(laws)) < 2 for laws in both):  # fmt: skip
            return
        new = {size.axis: size.others()[0] for size in self._followed}
        steps = self._alone.traced(new)
        held = {(size.value, size.dim): new[size.axis] for size in self._followed}
        if steps is not None and _same(self._ops, steps):
            wrong = any(
                not _near(_at(self._base[at].given[attr], laws, held), steps[at].given[attr])
                for at, op in self._places()
                for attr, laws in self._found.lengths.get(op, {}).items()
            )
            if not wrong:
                return
        for size in self._followed[1:]:
            self._fix(size)

    def types(self) -> None:
        """Find the types that the code follows."""
        first = self._alone.first()
        if first is None:
            return
        captured = getattr(torch, first.dtype)
        allowed = [captured]
        for dtype in (t for t in _TYPES if t != captured):
            steps = self._alone.traced({}, dtype=dtype)
            if steps is None or not _same(self._ops, steps):
                continue
            changed = [
                (op, attr, given, steps[at].given[attr])
                for at, op in self._places()
                for attr, given in self._base[at].given.items()
                if given != steps[at].given[attr]
            ]
            if all(given == captured and new == dtype for _, _, given, new in changed):
                allowed.append(dtype)
                for op, attr, _, _ in changed:
                    self._found.dtypes.setdefault(op, {})[attr] = first
        if len(allowed) <= len(_TYPES) and not first.is_weight:
            self._found.types = tuple(allowed)

    def modes(self) -> None:
        """Find what follows the mode."""
        steps = self._without_dropouts(self._alone.traced({}, training=True) or [])
        if not _same(self._ops, steps):
            self._found.evaluated = True
            return
        for at, op in self._places():
            for attr, given in self._base[at].given.items():
                new = steps[at].given[attr]
                if type(given) is type(new) and isinstance(given, bool | float) and given != new:
                    self._found.modes.setdefault(op, {})[attr] = new
                elif given != new:
                    self._found.evaluated = True

    def _without_dropouts(self, steps: Sequence[_Step]) -> list[_Step]:
        """The steps but for dropouts that only training mode has, each noted at what it reads."""
        out: list[_Step] = []
        before: _Step | None = None
        for step in steps:
            at = len(out)
            wanted = self._ops[at].source.target if at < len(self._ops) else None
            if step.target == _DROPOUT and step.target != wanted and before is not None:
                if step.node.args[0] is not before.node or not out:
                    return []
                self._found.dropouts[self._ops[at - 1]] = step.given["p"]
            else:
                out.append(step)
            before = step
        return out

    def _places(self) -> list[tuple[int, Op]]:
        return [(at, op) for at, op in enumerate(self._ops) if op in self._needed]


# --- laws -------------------------------------------------------------------------------------


def _law(size: _Size, number: Any, others: Sequence[tuple[int, Any]]) -> Lengths | None:
    """How a number, or each of several, follows a size; None where no simple law fits."""
    if isinstance(number, list):
        if any(not isinstance(o, list) or len(o) != len(number) for _, o in others):
            return None
        each: list[Any] = [
            _law(size, n, [(at, o[i]) for at, o in others]) for i, n in enumerate(number)
        ]
        return None if None in each else [law or [] for law in each]
    if all(other == number for _, other in others):
        return []
    numbers = (number, *(other for _, other in others))
    if any(type(x) not in (int, float) for x in numbers):
        return None
    whole = all(type(x) is int for x in numbers)
    held = Length(size.value, size.dim, size.axis.size, size.rest, whole=whole)
    tries = [replace(held, power=power) for power in ((1,) if whole else _POWERS)]
    at, other = others[0]
    if whole and (other - number) % (at - size.axis.size) == 0:
        tries.append(replace(held, step=(other - number) // (at - size.axis.size)))
    for law in tries:
        if all(_near(law.of(number, at), other) for at, other in others):
            return [law]
    return None


def _near(found: Any, wanted: Any) -> bool:
    if isinstance(found, list | tuple):
        return all(_near(a, b) for a, b in zip(found, wanted, strict=True))
    if isinstance(found, float) and isinstance(wanted, int | float):
        return isclose(found, wanted, rel_tol=1e-12)
    return bool(found == wanted)


def _at(number: Any, laws: Any, sizes: Mapping[tuple[Value, int], int]) -> Any:
    """A number at other sizes."""
    if isinstance(number, list):
        return [_at(n, law, sizes) for n, law in zip(number, laws, strict=True)]
    for law in laws:
        number = law.of(number, sizes.get((law.value, law.dim), law.size))
    return number


def _flat(laws: Any) -> list[Length]:
    return [one for law in laws for one in (law if isinstance(law, list) else [law])]


def _joined(known: Any, law: Any) -> Any:
    """The laws of several sizes for one number."""
    if known is None:
        return law
    if law and isinstance(law[0], list):
        return [[*a, *b] for a, b in zip(known, law, strict=True)]
    return [*known, *law]


def _sizes(call: Call, cuts: Cuts) -> Iterator[_Size]:
    """The sizes of the inputs that are no widths of the model's."""
    widths = {group.axis for group in cuts.deps.groups}
    inputs = cuts.deps.source.inputs
    batch = next((a for v in inputs for a in leaves(cuts.deps.dims[v][0] if v.shape else ())), None)
    seen: set[Axis] = set()
    values = dict.fromkeys(x for x in pytree.tree_leaves(call.args) if isinstance(x, Value))
    for value in values:
        for number, dim in enumerate(() if value.is_weight else cuts.deps.dims[value]):
            factors = leaves(dim)
            if not factors or factors[0] in seen or not widths.isdisjoint(atoms(dim)):
                continue
            axis = factors[0]
            seen.add(axis)
            yield _Size(axis, value, number, length(dim) // axis.size, axis is batch)


def _same(ops: Sequence[Op], steps: Sequence[_Step]) -> bool:
    """Whether a capture has the graph's operations, in their order."""
    return [op.source.target for op in ops] == [step.target for step in steps]


# --- captures ---------------------------------------------------------------------------------


class _Step(NamedTuple):
    """One operation of a capture: what it is, its arguments without tensors, gradients."""

    target: Any
    given: dict[str, Any]
    grad: bool
    node: fx.Node


class _Alone:
    """A module by itself, to be captured with other inputs."""

    def __init__(
        self, captured: CapturedModule, path: str, call: Call, aside: set[str], cuts: Cuts
    ) -> None:
        self._module = captured.model.get_submodule(path)
        self._device = next((x.device for x in self._module.parameters()), None)
        self._dims = cuts.deps.dims
        self._call = call
        prefix = f"{path}." if path else ""
        weights = captured.graph.weights.items()
        self._weights = [v for name, v in weights if name.startswith(prefix)]
        self._aside = tuple(f"inner.{name.removeprefix(prefix)}" for name in aside)

    def types(self) -> tuple[torch.dtype, ...] | None:
        """The type of the first input of floating point; None where there is none."""
        value = self.first()
        return None if value is None or value.is_weight else (getattr(torch, value.dtype),)

    def first(self) -> Value | None:
        """The first input of floating point, or else the first such weight."""
        inputs = (x for x in pytree.tree_leaves(self._call.args) if isinstance(x, Value))
        values = (*inputs, *self._weights)
        return next((v for v in values if getattr(torch, v.dtype).is_floating_point), None)

    def traced(
        self,
        sizes: Mapping[Axis, int],
        dtype: torch.dtype | None = None,
        training: bool = False,
    ) -> list[_Step] | None:
        """The operations of the module's own code; None where it refuses the inputs."""
        module = self._module
        inputs: dict[Value, torch.Tensor] = {}

        def made(value: Value) -> torch.Tensor:
            if value.is_weight:
                return value.tensor  # type: ignore[no-any-return]
            if value not in inputs:
                kind = getattr(torch, value.dtype)
                kind = dtype if dtype is not None and kind.is_floating_point else kind
                dims = self._dims[value]
                shape = [_resized(d, n, sizes) for d, n in zip(dims, value.shape, strict=True)]
                inputs[value] = torch.zeros(shape, dtype=kind, device=self._device)
            return inputs[value]

        args, kwargs = pytree.tree_map_only(Value, made, self._call.args)
        try:
            if dtype is not None:
                module = copy.deepcopy(module).to(dtype)
            with preserved(module), quiet():
                module.train(training)
                exported = torch.export.export(_Inner(module), tuple(args), kwargs, strict=False)
        except Exception:  # whatever the caller's code raises for inputs that it does not take
            return None
        return [
            _Step(node.target, dict(_given(node)), grad, node)
            for node, grad in _nodes(exported.graph_module, True)
            if not self._inside(node)
        ]

    def _inside(self, node: fx.Node) -> bool:
        """Whether a module makes it whose code is not its own."""
        stack = node.meta.get("nn_module_stack") or {"": ("", "")}
        path = next(reversed(stack.values()))[0]
        return any(path == held or path.startswith(f"{held}.") for held in self._aside)


class _Inner(nn.Module):
    """Runs another module's code without its hooks, which stay where they are."""

    def __init__(self, inner: nn.Module) -> None:
        super().__init__()
        self.inner = inner
        self.training = inner.training

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        """What the module's code returns."""
        return self.inner.forward(*args, **kwargs)


def _resized(dim: Any, size: int, sizes: Mapping[Axis, int]) -> int:
    for axis in leaves(dim):
        if axis in sizes:
            size = size // axis.size * sizes[axis]
    return size


def _nodes(module: fx.GraphModule, grad: bool) -> Iterator[tuple[fx.Node, bool]]:
    """The operations of a capture, those of its regions too, and whether they take gradients."""
    for node in module.graph.nodes:
        if node.op != "call_function" or getattr(node.target, "__name__", "") == "getitem":
            continue
        schema = getattr(node.target, "_schema", None)
        if schema is not None and not schema.returns:
            continue  # what export asserts of a conversion, which the graph does not hold
        if getattr(node.target, "__name__", "") in _WRAPPERS:
            at = next(a for a in node.args if isinstance(a, fx.Node) and a.op == "get_attr")
            switched = "grad" in node.target.__name__
            yield from _nodes(
                getattr(module, str(at.target)), bool(node.args[0]) if switched else grad
            )
            continue
        yield node, grad


def _given(node: fx.Node) -> Iterator[tuple[str, Any]]:
    """The arguments that are no tensors."""
    for name, tensors, given in bound_arguments(node):
        if isinstance(given, fx.Node) or (tensors and given is None):
            continue
        if isinstance(given, list | tuple) and any(isinstance(g, fx.Node) for g in given):
            continue
        yield name, list(given) if isinstance(given, list | tuple) else given

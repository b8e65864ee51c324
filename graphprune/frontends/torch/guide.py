"""Which Python attributes hold which lengths: found by watching one forward pass.

The narrowed copy of the model runs on tensors without values, its integer attributes replaced by
integers that remember where they live. Every call of a torch function is matched with the
operations that it became when the model was captured (torch.export counts calls in the same way),
so the sizes that a call *should* be given are known. Where a size is wrong and comes from an
attribute, the attribute gets a new value; where it comes from the Python code itself, the code
cannot express the new widths and its module is reported.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext, suppress
from math import isclose
from typing import Any

import torch
from torch import nn
from torch._subclasses.fake_tensor import DataDependentOutputException
from torch.overrides import TorchFunctionMode
from torch.utils import _pytree as pytree
from torch.utils.hooks import RemovableHandle

from graphprune.core.axes import Dim, length
from graphprune.core.cuts import Cuts
from graphprune.core.effect import SHARE, AnyLength
from graphprune.core.graph import Op, Value
from graphprune.core.indices import kept_length
from graphprune.core.relations import Mismatch
from graphprune.engine.state import holders, preserved, quiet
from graphprune.frontends.torch.arguments import REWRITES
from graphprune.frontends.torch.blank import called, without_values
from graphprune.frontends.torch.captured import CapturedModule, is_layer
from graphprune.frontends.torch.failing import failing
from graphprune.frontends.torch.findings import (
    Call,
    Findings,
    calls,
    constants,
)
from graphprune.frontends.torch.known import Known
from graphprune.frontends.torch.labels import Labels
from graphprune.frontends.torch.older import exporting
from graphprune.frontends.torch.tables import tables_preserved
from graphprune.frontends.torch.tagged import Place, Tagged, Unequal, assign, tag


def guide(
    captured: CapturedModule, model: nn.Module, cuts: Cuts, known: Findings | None = None
) -> Findings:
    """Run a model on tensors without values and compare what it does with what the graph says.

    Args:
        captured: The captured original.
        model: The original itself, or a blank copy of it, narrowed or not.
        cuts: What was narrowed: nothing, for the original.
        known: Findings on the original, to step over modules that fail on their own.

    Raises:
        Exception: Whatever the model raises where `known` is not given.
    """
    mode = _Guide(captured, model, cuts, known)
    without, blank = without_values(captured)
    args, kwargs = pytree.tree_map_only(torch.Tensor, blank, captured.inputs)
    tensors = [x for x in pytree.tree_leaves((args, kwargs)) if isinstance(x, torch.Tensor)]
    for value, tensor in zip(captured.graph.inputs, tensors, strict=True):
        mode.labels.put(tensor, value)
    values: AbstractContextManager[None] = nullcontext()
    if captured.valued:
        values = Known(model, captured.inputs, captured.model).following()
    outside = tables_preserved(model)
    with preserved(model), outside, torch.enable_grad(), quiet(), exporting(), without:
        model.eval()
        if captured.builds:  # it was captured with its tables made
            with suppress(Exception):
                model(*args, **kwargs)
        with values, mode.tags(), mode.watched(), mode:
            try:
                model(*args, **kwargs)
            except Exception as error:
                if known is None:
                    raise
                mode.findings.offenders.setdefault("", failing(error))
    return mode.findings


class _Guide(TorchFunctionMode):
    def __init__(
        self, captured: CapturedModule, model: nn.Module, cuts: Cuts, known: Findings | None
    ) -> None:
        super().__init__()
        self.findings = Findings()
        self._model = model
        self._cuts = cuts
        self._counts = {axis: len(kept) for axis, kept in cuts.keep.items()}
        self._known = known
        self._counters: Counter[Any] = Counter()
        self._uses: dict[Place, tuple[int, Dim | None]] = {}
        self.labels = Labels(captured.graph, model, cuts)
        self._stack: list[tuple[str, nn.Module]] = []
        self._unequal: Unequal = []
        self._ops = calls(captured.graph.ops)
        self._constants = constants(captured.graph.ops)
        self._idle = captured.graph.idle()

    # --- torch functions --------------------------------------------------------------------

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        self._counters[func] += 1
        name = getattr(func, "__name__", "")
        key = (f"{name}_{self._counters[func]}", f"{func.__class__.__name__}.{name}")
        ops = self._became(key, (args, kwargs))
        for op in ops:
            if name == "multi_head_attention_forward":  # its inner calls are out of reach
                self._pinned(op, {})
            elif func is torch.tensor:
                args = self._same_constant(op, args)
            elif self._cuts.keep and op not in self._idle:
                value = args[2:] if name == "__setitem__" else ()  # which is no index
                args, kwargs = self._corrected(op, args[: len(args) - len(value)], kwargs)
                args = (*args, *value)
        try:
            result = called(func, args, kwargs)
        except (NotImplementedError, DataDependentOutputException):  # it looks at values
            if not ops or len(ops[-1].outputs) != 1:
                raise
            return self.labels.stand_in(ops[-1].outputs[0])
        self.labels.put_results(ops, result)
        return result

    def _became(self, key: Any, given: Any) -> list[Op]:
        """The operations that a call became.

        `torch.split` and `Tensor.split` are counted apart, but share their name: of the calls
        with the same key the next one that takes a tensor of this shape is meant.
        """
        runs = self._ops.get(key, [])
        if len(runs) < 2:
            return runs[0] if runs else []
        shapes = [x.shape for x in pytree.tree_leaves(given) if isinstance(x, torch.Tensor)]
        fitting = (
            run
            for run in runs
            if any(v is not None and self.labels.shape(v) in shapes[:1] for v in run[0].inputs)
        )
        found = next(fitting, runs[0])
        runs.remove(found)
        return found

    def _corrected(self, op: Op, args: Any, kwargs: Any) -> tuple[Any, Any]:
        changed = self._cuts.attrs.get(op, {})
        for attr in self._cuts.deps.effects[op].sizes:
            wanted = changed.get(attr, op.attrs.get(attr))
            if attr == "split_sizes":
                wanted = [
                    self.labels.shape(value)[int(op.attrs.get("dim") or 0)] for value in op.outputs
                ]
            held = self._cuts.deps.effects[op].sizes[attr]
            if isinstance(held, list) and any(isinstance(size, AnyLength) for size in held):
                pairs = zip(wanted or [], held, strict=True)
                wanted = [None if isinstance(size, AnyLength) else w for w, size in pairs]
            edit = REWRITES.get(attr)
            if edit is not None and wanted is not None:
                args, kwargs = edit(self, op, wanted, args, kwargs)
        for attr, captured in op.attrs.items():
            if isinstance(captured, float):
                number = changed.get(attr, captured)
                args, kwargs = self._same_number(op, attr, number, args, kwargs)
        return args, self._pinned(op, kwargs)

    def _pinned(self, op: Op, kwargs: dict[str, Any]) -> dict[str, Any]:
        """Report an attribute whose default changes with a length, and give its old value."""
        for attr, value in self._cuts.attrs.get(op, {}).items():
            if attr in self._cuts.deps.effects[op].pins and kwargs.get(attr) is None:
                self.offend(op, f"{op.type} takes its {attr} from the new width")
                self._stays(self._cuts.deps.effects[op].pins[attr][1])
                kwargs = {**kwargs, attr: value}
        if SHARE in self._cuts.attrs.get(op, {}):
            self.offend(op, f"{op.type} divides by the new width")
            for dim in self._cuts.deps.effects[op].averages:
                self._stays(dim)
        return kwargs

    def _same_number(self, op: Op, attr: str, number: float, args: Any, kwargs: Any) -> Any:
        """Report numbers that the code derives from a length (`q.shape[-1] ** -0.5`)."""
        if type(kwargs.get(attr)) is float and kwargs[attr] != number:
            self._derived(op, attr, number, kwargs[attr])
            return args, {**kwargs, attr: number}
        if attr == "other" and len(args) == 2:
            for i, arg in enumerate(args):
                if type(arg) is float and arg != number:
                    self._derived(op, attr, number, arg)
                    return (*args[:i], number, *args[i + 1 :]), kwargs
        return args, kwargs

    def _derived(self, op: Op, attr: str, number: float, given: float) -> None:
        self.offend(op, f"{op.type} takes its {attr} from the new width")
        self.findings.numbers[op] = (attr, given)
        self._numbered(op, number)

    def _same_constant(self, op: Op, args: Any) -> Any:
        """Report tensors that the code makes of a length (`torch.tensor(q.shape[-1])`)."""
        number = self._constants.get(op)
        if number is None or not isinstance(args[0], int | float):
            return args
        if number != args[0]:
            self.offend(op, f"{op.type} makes a tensor of the new width")
            self._numbered(op, float(number))
        return (number, *args[1:])

    def _numbered(self, op: Op, number: float) -> None:
        """Keep the lengths in this module that a number is the root or the inverse of."""
        near = (o for o in self._cuts.deps.source.ops if o.module == op.module)
        for dim in dict.fromkeys(
            d for o in near for v in o.outputs for d in self._cuts.deps.dims[v]
        ):
            powers = (length(dim) ** power for power in (0.5, -0.5, 1, -1))
            if self._cuts.touches(dim) and any(isclose(number, power) for power in powers):
                self._stays(dim)

    def settle(self, op: Op, given: Any, wanted: Any) -> Any:
        """Compare a given size with the wanted one; learn from a difference."""
        if given is None or wanted is None or int(given) == -1:
            return given
        dim = self._wanted(op, abs(wanted))  # a position from the end is minus a length
        other = None
        if isinstance(given, Tagged):
            used, other = self._uses.setdefault(given.place, (wanted, dim))
            if used == wanted:
                if given != wanted:
                    self.findings.edits[given.place] = wanted
                    assign(given, wanted)
                if wanted == 1 and dim is not None:  # for which code often has a branch
                    self.findings.ones[given.place] = dim
                return wanted
        if given == wanted:
            return given
        self.offend(op, f"{op.type} is given {int(given)} where {wanted} remain")
        if dim is not None:
            self.findings.mismatches.append(Mismatch(dim, abs(int(given)), other))
        return wanted

    def _wanted(self, op: Op, wanted: int) -> Dim | None:
        """The dimension whose length a size should be."""
        sizes = self._cuts.deps.effects[op].sizes.values()
        for dim in (d for size in sizes for d in (size if isinstance(size, list) else [size])):
            if dim and kept_length(dim, self._counts) == wanted:
                return dim
        return None

    def unequal(self, op: Op, sizes: Sequence[int]) -> None:
        """Report segments that should be of equal length."""
        self.offend(op, f"{op.type} into {list(sizes)}")
        at = int(op.attrs.get("dim") or 0)
        first, *others = (self._cuts.deps.dims[value][at] for value in op.outputs)
        self.findings.mismatches.extend(Mismatch(dim, sizes[0], first) for dim in others)

    def _stays(self, dim: Dim) -> None:
        """Learn that a dimension should keep its length."""
        self.findings.mismatches.append(Mismatch(dim, length(dim), ()))

    def offend(self, op: Op, why: str) -> None:
        """Report the module whose code is running."""
        path = self._stack[-1][0] if self._stack else ""
        self.findings.offenders.setdefault(path, why)

    # --- modules ----------------------------------------------------------------------------

    @contextmanager
    def watched(self) -> Iterator[None]:
        """Follow which module is running."""
        modules = list(self._model.named_modules())
        handles = []
        for path, module in modules:
            module.__dict__["forward"] = self._watcher(path, module, module.forward)
            if module._forward_hooks or module._forward_pre_hooks:
                handles += self._around_hooks(path, module)
        try:
            yield
        finally:
            for handle in handles:
                handle.remove()
            for _, module in modules:
                module.__dict__.pop("forward", None)

    def _around_hooks(self, path: str, module: nn.Module) -> list[RemovableHandle]:
        """Note what a module is given before its hooks, and what they leave of its result."""
        given: list[Any] = []

        def before(_: nn.Module, args: Any, kwargs: Any) -> None:
            given.append(self.labels.named((args, kwargs)))

        def after(_: nn.Module, args: Any, result: Any) -> None:
            self.findings.calls[path][-1].outer = given.pop(), self.labels.named(result)

        return [
            module.register_forward_pre_hook(before, prepend=True, with_kwargs=True),
            module.register_forward_hook(after),
        ]

    def _watcher(self, path: str, module: nn.Module, forward: Callable[..., Any]) -> Any:
        def watched(*args: Any, **kwargs: Any) -> Any:
            self._stack.append((path, module))
            named = self.labels.named((args, kwargs))
            self._unequal.clear()
            try:
                result = forward(*args, **kwargs)
            except Exception as error:
                result = self._stepped_over(path, module, error)
            finally:
                self._stack.pop()
            call = Call(named, self.labels.named(result), Counter(self._counters))
            self.findings.calls[path].append(call)
            return result

        return watched

    def _stepped_over(self, path: str, module: nn.Module, error: Exception) -> Any:
        """What a module that failed should have returned, if that is known."""
        number = len(self.findings.calls[path])
        if self._known is None or is_layer(module):
            raise error
        calls = self._known.calls.get(path, [])
        if number >= len(calls) or path == "":
            raise error
        if not self._checked():
            self.findings.offenders.setdefault(path, failing(error))
        self._counters = Counter(calls[number].counters)
        return pytree.tree_map_only(Value, self.labels.stand_in, calls[number].result)

    def _checked(self) -> bool:
        """Whether code that failed had compared a length with an attribute: it gets that length."""
        if not self._unequal:
            return False
        given, wanted = self._unequal[-1]
        known = self.findings.edits.setdefault(given.place, wanted)
        return known == wanted

    # --- attributes -------------------------------------------------------------------------

    @contextmanager
    def tags(self) -> Iterator[None]:
        """Replace integer attributes of the caller's modules by tagged ones, for a while."""
        seen: set[int] = set()
        for path, module in self._model.named_modules():
            for prefix, holder in () if is_layer(module) else holders(module):
                if id(holder) in seen:
                    continue  # a config that an outer module holds too
                seen.add(id(holder))
                for attr in [a for a in holder if a != "training" and not a.startswith("_")]:
                    tag(path, prefix, holder, attr, self._unequal)
        yield

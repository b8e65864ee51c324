"""program: a captured module, and all that can be done with it."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import Any, cast

import torch
from torch import nn
from torch.utils import _pytree as pytree

from graphprune.core.batch import Batch
from graphprune.core.cuts import Cuts
from graphprune.core.errors import VerifyError
from graphprune.core.factors import Pair
from graphprune.core.graph import Graph, Op, Value
from graphprune.core.groups import Dependencies
from graphprune.core.program import Expressed, Inputs, Lowered
from graphprune.core.rewrites import Draft, Rewrite
from graphprune.costs.latency.backend import Backend
from graphprune.engine.state import preserved, quiet, same_draws
from graphprune.frontends.backends import backend
from graphprune.frontends.torch.captured import CapturedModule
from graphprune.frontends.torch.compare import check_runs, compare
from graphprune.frontends.torch.config import has_config
from graphprune.frontends.torch.configured import Described
from graphprune.frontends.torch.elsewhere import compare_elsewhere
from graphprune.frontends.torch.expressed import ExpressedModule
from graphprune.frontends.torch.findings import Findings
from graphprune.frontends.torch.keyed import hold_tables
from graphprune.frontends.torch.lift import lift
from graphprune.frontends.torch.lower import lower, more_generated
from graphprune.frontends.torch.lowered import Lowered as LoweredModule
from graphprune.frontends.torch.masks import materialised
from graphprune.frontends.torch.modes import check_training
from graphprune.frontends.torch.parts import whole
from graphprune.frontends.torch.recaptured import calls_the_same
from graphprune.frontends.torch.rewrites import refuses, rewritten
from graphprune.frontends.torch.same import apart, apart_in_training, apart_on
from graphprune.frontends.torch.saving import save_model, tensor_bytes
from graphprune.frontends.torch.split import split, unsplit
from graphprune.frontends.torch.survey import survey
from graphprune.statistics.batches import read_batches


@dataclass
class ModuleProgram:
    """A captured module.

    Attributes:
        captured: What the capture gave.
        back: Puts the smaller module into the wrapper that the given one came in.
        warnings: What the caller should know.
        assumed: The example inputs in words, where they were found rather than given.
    """

    captured: CapturedModule
    back: Callable[[Any, Inputs], Any] = lambda model, _: model
    warnings: list[str] = field(default_factory=list)
    assumed: str = ""
    _calls: Findings | None = None  # every call of the original, once it was needed

    is_file = False
    doubt = ""

    def __post_init__(self) -> None:
        self.warnings = self.captured.warnings

    @property
    def name(self) -> str:
        """The class of the module."""
        return self.captured.name

    @property
    def graph(self) -> Graph:
        """The neutral graph."""
        return self.captured.graph

    @property
    def model(self) -> nn.Module:
        """The caller's module, or a view of it that calls the parts that were captured."""
        return self.captured.model

    @property
    def original(self) -> nn.Module | None:
        """The caller's module, where only parts of it were captured."""
        return self.captured.original

    @property
    def given(self) -> Inputs | None:
        """The caller's inputs, where those of the capture are inputs of parts."""
        return self.captured.given

    @property
    def inputs(self) -> Inputs:
        """The example inputs that it was captured with."""
        return self.captured.inputs

    @cached_property
    def alike(self) -> bool:
        """Whether a config describes the module, so that its blocks share their widths."""
        return has_config(self.model)

    @cached_property
    def _described(self) -> Described:
        return Described(self.captured, self.warnings)

    def batch(self) -> int:
        """How many samples the example inputs hold."""
        return self.captured.batch()

    def flat_inputs(self, seed: int = 0) -> list[torch.Tensor]:
        """The tensors among the example inputs, in the graph's order."""
        return self.captured.flat_inputs()

    def read(self, data: Any, samples: int) -> list[Batch]:
        """The caller's data as batches on the module's device."""
        return read_batches(data, self.original or self.model, samples)

    def replayed(self, batches: Sequence[Batch]) -> Sequence[Batch]:
        """Data as the graph takes it: where parts were captured, what they take."""
        return self.captured.replayed(batches)

    def materialised(self) -> tuple[ModuleProgram, Sequence[str]]:
        """The module with its masks multiplied into the weights that they lie over."""
        inputs = self.captured.given or self.inputs
        model, names = materialised(self.captured.original or self.model, inputs)
        if not names:
            return self, []
        made = ModuleProgram(lift(model, inputs), self.back)
        made.warnings[:] = dict.fromkeys([*self.warnings, *made.warnings])
        made.assumed = self.assumed
        return made, names

    def refuses(self, rewrite: Rewrite, draft: Draft, code: bool = True) -> str:
        """Why a rewrite cannot be made of the module, or nothing."""
        return refuses(self.captured, rewrite, draft, code)

    def rewritten(self, draft: Draft, deps: Dependencies) -> ModuleProgram:
        """The captured copy of the module that computes what a draft says."""
        made = ModuleProgram(rewritten(self.captured, draft, deps), self.back)
        known = made.warnings
        made.warnings[:] = [*self.warnings, *(w for w in known if w not in self.warnings)]
        made.assumed = self.assumed
        return made

    def tidied(self) -> None:
        """Nothing: there is no such tool for modules."""

    def express(self, cuts: Cuts, hints: Expressed | None = None) -> ExpressedModule:
        """Run the module's code on narrowed weights and see what it can express."""
        guessed = None if hints is None else hints.guessed
        known = self._calls
        found = survey(self.captured, cuts, True, known, guessed)
        hold_tables(self.captured, found)
        self._calls = found.original
        out = ExpressedModule(cuts, found, guessed=found.guessing if guessed is None else guessed)
        if self.alike:
            self._described.ask(out)
        return out

    def lower(self, found: Expressed) -> LoweredModule:
        """A module of the caller's class wherever its code can express the choice.

        Code that takes no numbers computes what its weights say. Other code may run on the new
        widths and compute something else, which its calls show, or a comparison, asked for or not.
        """
        expressed = _module(found)
        made = lower(self.captured, expressed.survey)
        if expressed.survey.follows or self._calls_the_same(expressed, made):
            with suppress(VerifyError):
                check_training(self.model, made.model, self.inputs)
                return made
        with suppress(VerifyError):  # which is for `prove` to tell
            made = self._settled(expressed, made)
        return made

    def _calls_the_same(self, found: ExpressedModule, made: LoweredModule) -> bool:
        """Whether a smaller module's own code makes the calls of the narrowed graph."""
        written = made.replaced or made.folds
        return not written and calls_the_same(self.captured, found.cuts, made.model)

    def prove(
        self, found: Expressed, lowered: Lowered, seed: int
    ) -> tuple[LoweredModule, float | None]:
        """Compare the smaller module with the narrowed graph."""
        made = _lowered(lowered)
        if made.gap is None:
            made = self._settled(_module(found), made)
        return made, made.gap

    def apart(self, lowered: Lowered, seed: int) -> float:
        """Hold a smaller module against this one."""
        return apart(self.model, _lowered(lowered).model, self.inputs)

    def apart_on(self, lowered: Lowered, batch: Batch, seed: int) -> float:
        """Hold a smaller module against this one on inputs of the caller's."""
        return apart_on(self.model, _lowered(lowered).model, (batch.args, batch.kwargs))

    def apart_in_training(self, lowered: Lowered) -> float | None:
        """Hold a smaller module against this one in training mode."""
        return apart_in_training(self.model, _lowered(lowered).model, self.inputs)

    def _settled(self, found: ExpressedModule, made: LoweredModule) -> LoweredModule:
        """A module that computes what the narrowed graph does.

        Where its own code turns out to compute something else, folding is given up first, then
        more and more of the code. Generated code that computes something else for another number
        of samples, or in training mode, is generated again so that it refuses these by name.

        Raises:
            VerifyError: Not even generated code does.
        """
        while True:
            try:
                made.gap = compare(self.captured, found.cuts, made)
            except VerifyError as error:
                if "" in made.replaced:
                    raise
                given = self.captured, found.survey, made, str(error)
                found.survey, made = more_generated(*given)
                continue
            try:
                if made.replaced:
                    compare_elsewhere(self.captured, found.cuts, made)
                    return made
                check_training(self.model, made.model, self.inputs)
                return made
            except VerifyError as error:
                if not made.replaced:
                    given = self.captured, found.survey, made, str(error)
                    found.survey, made = more_generated(*given)
                    continue
                self.warnings.append(f"{error}; it refuses whatever it was not captured with")
                made = lower(self.captured, found.survey, made.replaced, made.inline, rigid=True)
                made.gap = compare(self.captured, found.cuts, made)
                compare_elsewhere(self.captured, found.cuts, made)
                return made

    def write(
        self, found: Expressed, lowered: Lowered, values: Mapping[Value, torch.Tensor]
    ) -> LoweredModule:
        """Give the smaller module new weights, scales folded into them."""
        made = _lowered(lowered)
        held = self.stored(made, values)
        for value, tensor in values.items():
            for fold in made.folds:
                if fold.weight is value:
                    tensor = fold.apply(tensor)
            if value in held:
                held[value].data.copy_(tensor)
        return made

    def stored(self, lowered: Lowered, values: Collection[Value]) -> dict[Value, torch.Tensor]:
        """The parameters and buffers themselves."""
        model = _lowered(lowered).model
        named: dict[str, torch.Tensor] = {
            **dict(model.named_buffers(remove_duplicate=False)),
            **dict(model.named_parameters(remove_duplicate=False)),
        }
        names = {v: next((n for n in (v.name, *v.aliases) if n in named), None) for v in values}
        return {value: named[name] for value, name in names.items() if name is not None}

    def finish(self, found: Expressed, lowered: Lowered, check: bool) -> Any:
        """The smaller module, whole again and in its wrapper."""
        made = _lowered(lowered)
        if self.original is not None:
            made.model = whole(made.model, self.original)
            if check:
                check_runs(made.model, cast(Inputs, self.given))
        if self.alike:
            self._described.tell(_module(found), made)
        return self.back(made.model, self.given or self.inputs)

    def save(self, found: Expressed, lowered: Lowered, path: Path, check: bool) -> None:
        """Write the smaller module: `.pt`, `.pt2` or `.onnx`."""
        save_model(self.finish(found, lowered, check), self.given or self.inputs, path)

    def annotate(self, lowered: Lowered, notes: Mapping[str, Any], larger: bool = True) -> None:
        """Nothing: a module has no place for notes; `report_of` finds its report."""

    def unsplit(self, layers: Mapping[Value, Op]) -> Mapping[Value, str]:
        """Weights whose module cannot become two, with the reason."""
        return unsplit(self.captured, layers)

    def split(self, lowered: Lowered, pairs: Sequence[Pair]) -> LoweredModule:
        """The smaller module with an `nn.Sequential` of two layers in place of some."""
        made = _lowered(lowered)
        return replace(made, model=split(made.model, pairs))

    def reopened(self, lowered: Lowered) -> tuple[ModuleProgram, Mapping[str, str]]:
        """The smaller module, captured anew; its weights have the names that they had."""
        made = ModuleProgram(lift(_lowered(lowered).model, self.inputs), self.back)
        return made, {name: name for name in made.graph.weights}

    def adopted(self, lowered: Lowered, other: Lowered) -> LoweredModule:
        """The smaller module in place of the one that it was made of."""
        return replace(_lowered(lowered), model=_lowered(other).model)

    def equal(self, lowered: Lowered, split: Lowered, seed: int) -> float:
        """Hold two modules against each other, in evaluation and in training."""
        one, other = _lowered(lowered).model, _lowered(split).model
        return apart(one, other, self.inputs, (False, True))

    def weighed(self, lowered: Lowered) -> tuple[int, int]:
        """Bytes of the parameters and buffers before and after."""
        return tensor_bytes(self.model), tensor_bytes(_lowered(lowered).model)

    def runnable(self, found: Expressed) -> nn.Module:
        """The module of a choice; the caller's own where nothing goes."""
        if not found.cuts.keep:
            return self.model if self.original is None else self.original
        module = lower(self.captured, _module(found).survey).model
        return module if self.original is None else whole(module, self.original)

    def answers(
        self,
        found: Expressed,
        lowered: Lowered | None,
        chunks: Sequence[Sequence[torch.Tensor]],
    ) -> list[list[torch.Tensor]]:
        """What the module, or the smaller one, returns in eval mode; the same draws each time."""
        model = self.model if lowered is None else _lowered(lowered).model
        leaves, spec = pytree.tree_flatten(self.inputs)
        out: list[list[torch.Tensor]] = []
        with preserved(model), torch.no_grad(), same_draws(), quiet():
            torch.manual_seed(0)
            model.eval()
            for chunk in chunks:
                left = iter(chunk)
                held = [next(left).clone() if isinstance(x, torch.Tensor) else x for x in leaves]
                args, kwargs = pytree.tree_unflatten(held, spec)
                results = pytree.tree_leaves(model(*args, **kwargs))
                out.append([x for x in results if isinstance(x, torch.Tensor)])
        return out

    def example(self, given: Inputs | None = None) -> Inputs:
        """The caller's inputs where there are any, else those of the capture."""
        return given or self.given or self.inputs

    def backend(self, name: str) -> Backend:
        """What runs the model where its time counts."""
        return backend(name, is_file=False)

    def speed(self, found: Expressed, lowered: Lowered, seed: int) -> None:
        """Nothing: a module is timed where its latency is asked for."""


def _module(found: Expressed) -> ExpressedModule:
    assert isinstance(found, ExpressedModule), "expressed by another program"
    return found


def _lowered(lowered: Lowered) -> LoweredModule:
    assert isinstance(lowered, LoweredModule), "lowered by another program"
    return lowered

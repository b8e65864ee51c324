"""What a frontend owes: a captured model that can be narrowed, written back and proven."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol, TypeAlias

import torch

from graphprune.core.batch import Batch
from graphprune.core.cuts import Cuts
from graphprune.core.factors import Pair
from graphprune.core.graph import Graph, Op, Value
from graphprune.core.groups import Dependencies
from graphprune.core.relations import Mismatch
from graphprune.core.rewrites import Draft, Rewrite

Inputs: TypeAlias = "tuple[tuple[Any, ...], dict[str, Any]]"
"""Positional and keyword arguments of a model."""


class Expressed(Protocol):
    """What the caller's own code can express of a choice.

    A file can express any choice. Python code often takes one length for another.
    """

    @property
    def cuts(self) -> Cuts:
        """The choice."""

    @property
    def wrong(self) -> int:
        """How much of the choice the code cannot express; 0 where it can express all."""

    @property
    def offenders(self) -> Collection[str]:
        """Parts of the model that cannot express the choice, by their paths."""

    @property
    def mismatches(self) -> Sequence[Mismatch]:
        """Lengths that the code took for others."""

    @property
    def wishes(self) -> Sequence[Mismatch]:
        """Lengths that a description of the model (its config) takes for others."""

    @property
    def guessed(self) -> bool | None:
        """Whether guesses of attributes helped, where there was a choice."""


class Lowered(Protocol):
    """The smaller model, before it is handed to the caller."""

    @property
    def replaced(self) -> Mapping[str, str]:
        """Parts that are generated code now, with the reason; `""` means the whole model."""

    @property
    def edits(self) -> Mapping[str, Any]:
        """Attributes with new values."""

    @property
    def folded(self) -> Sequence[str]:
        """Weights into which a softmax scale was folded."""


class Program(Protocol):
    """A captured model, of any frontend.

    Attributes:
        warnings: What the caller should know; passes may add to it.
        assumed: The example inputs in words, where the caller gave none; else empty.
    """

    warnings: list[str]
    assumed: str

    @property
    def name(self) -> str:
        """What the report calls the model."""

    @property
    def graph(self) -> Graph:
        """The neutral graph."""

    @property
    def model(self) -> Any:
        """The caller's model; only ever read."""

    @property
    def is_file(self) -> bool:
        """Whether the model is a file or a protobuf rather than a module."""

    @property
    def alike(self) -> bool:
        """Whether parts that are built alike should keep equal widths."""

    @property
    def doubt(self) -> str:
        """Why inputs that are made would not stand in for real ones; empty where they do."""

    @property
    def original(self) -> Any:
        """What the model was captured of, where only parts of it were captured; else None."""

    @property
    def given(self) -> Any:
        """Example inputs of the original, where only parts were captured; else None."""

    @property
    def inputs(self) -> Any:
        """Example inputs, positional and by name; None where a file needs none."""

    def batch(self) -> int:
        """How many samples the example inputs hold."""

    def flat_inputs(self, seed: int = 0) -> list[torch.Tensor]:
        """Example inputs in the order of the graph's; random ones where there are none."""

    def read(self, data: Any, samples: int) -> list[Batch]:
        """The caller's data as batches."""

    def replayed(self, batches: Sequence[Batch]) -> Sequence[Batch]:
        """Data as the graph takes it, where parts of the model were captured."""

    def materialised(self) -> tuple[Program, Sequence[str]]:
        """The model with masks of stored numbers multiplied into the weights that they lie over.

        Returns:
            A captured copy, or this program itself where there are none; and the weights' names.
        """

    def refuses(self, rewrite: Rewrite, draft: Draft, code: bool = True) -> str:
        """Why a rewrite cannot be made of the model, or nothing.

        Args:
            rewrite: What is to be changed.
            draft: The graph that it was found on.
            code: Whether code may be generated for it.
        """

    def rewritten(self, draft: Draft, deps: Dependencies) -> Program:
        """A captured copy of the model that computes what a draft of its graph says.

        Args:
            draft: The graph, rewritten in ways that were not refused.
            deps: The analysis of the graph as it was.

        Raises:
            LiftError: The copy cannot be made, or cannot be captured.
        """

    def tidied(self) -> Program | None:
        """The same model without what a tool of its format takes out; None without such a tool.

        Raises:
            LiftError: What the tool made cannot be captured.
        """

    def express(self, cuts: Cuts, hints: Expressed | None = None) -> Expressed:
        """What the model's own code can express of a choice.

        Args:
            cuts: The narrowed graph.
            hints: What was found of an earlier choice, which saves work.
        """

    def lower(self, found: Expressed) -> Lowered:
        """Make the smaller model, its weights cut and not compensated."""

    def prove(self, found: Expressed, lowered: Lowered, seed: int) -> tuple[Lowered, float | None]:
        """Check that the smaller model computes what the narrowed graph computes.

        Returns:
            The smaller model (more of it generated, where its own code proved to be wrong), and
            the largest relative difference; None where it is too large to be run as a whole.

        Raises:
            VerifyError: They differ.
        """

    def apart(self, lowered: Lowered, seed: int) -> float | None:
        """Hold a smaller model, made of this one, against it: as they stand, in evaluation.

        Returns:
            The largest relative difference between their results; None where they are too large to
            be run.

        Raises:
            VerifyError: They differ by more than the rounding of weights explains.
        """

    def apart_on(self, lowered: Lowered, batch: Batch, seed: int) -> float | None:
        """The same as `apart`, on inputs of the caller's.

        Args:
            lowered: The smaller model.
            batch: The inputs.
            seed: For the numbers by which a file's own rounding is measured.

        Raises:
            VerifyError: They differ by more than the rounding of weights explains.
        """

    def apart_in_training(self, lowered: Lowered) -> float | None:
        """How far a smaller model's results are from this one's in training mode.

        Norms see the statistics of the batch there: what is constant in evaluation, or folded, may
        be another number.

        Returns:
            The largest relative difference; None where there is no such mode, where numbers are
            drawn in it, or where the model does not run.
        """

    def write(
        self, found: Expressed, lowered: Lowered, values: Mapping[Value, torch.Tensor]
    ) -> Lowered:
        """Give the smaller model new weights, in their narrowed shapes."""

    def stored(self, lowered: Lowered, values: Collection[Value]) -> dict[Value, torch.Tensor]:
        """What the smaller model holds for weights, as far as it holds them."""

    def finish(self, found: Expressed, lowered: Lowered, check: bool) -> Any:
        """The smaller model as the caller gets it: same kind, same wrapper."""

    def save(self, found: Expressed, lowered: Lowered, path: Path, check: bool) -> None:
        """Write the smaller model to a file, whole or not at all."""

    def annotate(self, lowered: Lowered, notes: Mapping[str, Any], larger: bool = True) -> None:
        """Write what was done into the smaller model, where its format has room for it.

        Args:
            lowered: The smaller model.
            notes: Text, or data for JSON, by name; the earlier ones come first.
            larger: Whether it may weigh more than the original with them.
        """

    def unsplit(self, layers: Mapping[Value, Op]) -> Mapping[Value, str]:
        """Weights that cannot become two, with the reason.

        Args:
            layers: Weights, each with the only operation that reads it.
        """

    def split(self, lowered: Lowered, pairs: Sequence[Pair]) -> Lowered:
        """A smaller model with two layers in a row in place of some; the given one stays as it is.

        Args:
            lowered: The smaller model, which holds the products of the pairs as weights.
            pairs: The weights of the two layers; none of them is refused by `unsplit`.
        """

    def reopened(self, lowered: Lowered) -> tuple[Program, Mapping[str, str]]:
        """A smaller model, captured anew.

        Returns:
            The captured model, and what this one calls each of its weights.

        Raises:
            LiftError: It cannot be captured.
        """

    def adopted(self, lowered: Lowered, other: Lowered) -> Lowered:
        """What became of the smaller model that was made of this one, and reopened.

        Args:
            lowered: The smaller model.
            other: What was made of it; the smaller model itself where it was not reopened.
        """

    def equal(self, lowered: Lowered, split: Lowered, seed: int) -> float | None:
        """Hold a split model against the one that holds the products, in either mode.

        Returns:
            The largest relative difference between their results; None where they are too large to
            be run.

        Raises:
            VerifyError: They differ by more than rounding explains.
        """

    def weighed(self, lowered: Lowered) -> tuple[int, int]:
        """Bytes of the model and of the smaller one: of the file, or of all tensors."""

    def runnable(self, found: Expressed) -> Any:
        """The model of a choice, to be timed: not checked, not compensated.

        Where the choice removes nothing, this is the model itself.
        """

    def answers(
        self,
        found: Expressed,
        lowered: Lowered | None,
        chunks: Sequence[Sequence[torch.Tensor]],
    ) -> list[list[torch.Tensor]]:
        """What a model returns for each of several inputs.

        Args:
            found: What the model's code can express of the choice.
            lowered: The smaller model, or None for the original.
            chunks: Tensors for the graph's inputs, for each run.
        """

    def example(self, given: Inputs | None = None) -> Inputs:
        """Inputs to time the model on: the caller's where there are any."""

    def backend(self, name: str) -> Any:
        """What runs the model and its operations where their time counts.

        Args:
            name: A name in `graphprune.choice.request.BACKENDS`.
        """

    def speed(self, found: Expressed, lowered: Lowered, seed: int) -> tuple[float, float] | None:
        """Seconds of a run before and after, where that takes little time to measure."""

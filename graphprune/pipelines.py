"""The pipelines that ship: which passes run, in which order."""

from __future__ import annotations

from graphprune.passes.agree import Agree
from graphprune.passes.align import Align
from graphprune.passes.assume import Assume
from graphprune.passes.choose_ranks import ChooseRanks
from graphprune.passes.compensate import Compensate
from graphprune.passes.constants import Constants
from graphprune.passes.couple import Couple
from graphprune.passes.dead import Dead
from graphprune.passes.drop_noops import DropNoops
from graphprune.passes.factorise import Factorise
from graphprune.passes.fold_norms import FoldNorms
from graphprune.passes.keep_classes import KeepClasses
from graphprune.passes.lower import Lower
from graphprune.passes.mask import Choose
from graphprune.passes.materialise import Materialise
from graphprune.passes.measure import Measure
from graphprune.passes.merge_branches import MergeBranches
from graphprune.passes.merge_linear import MergeLinear
from graphprune.passes.offer_ranks import OfferRanks
from graphprune.passes.same import Same
from graphprune.passes.score import Score
from graphprune.passes.select import Select
from graphprune.passes.share_zeros import ShareZeros
from graphprune.passes.twins import MergeTwins
from graphprune.passes.verify import Verify
from graphprune.passes.write_zeros import WriteZeros
from graphprune.pipeline import Pipeline

DEFAULT = Pipeline([Constants, Couple, Score, Select, Lower, Verify, Compensate, Agree, Measure])
"""What `shrink` runs."""

FOLDING = (DropNoops, FoldNorms, MergeBranches, MergeLinear)
"""Passes that leave every result as it is and the model smaller; they go before all others."""

COMPACT = Pipeline(
    [
        KeepClasses, Materialise, Assume, *FOLDING, Align, Constants, MergeTwins,
        Couple, Dead, Lower, Verify, Same, Measure,
    ]
)  # fmt: skip
"""What `compact` runs."""


FACTOR = Pipeline([Couple, OfferRanks, ChooseRanks, Lower, Factorise, Agree, Measure])
"""What `factor` runs."""

BOTH = Pipeline(
    [Couple, Score, OfferRanks, ChooseRanks, Lower, Verify, Compensate, Factorise, Agree, Measure]
)
"""What chooses widths and ranks within one budget."""

SPARSE = Pipeline([Couple, ShareZeros, Choose, Lower, WriteZeros, Agree])
"""What `sparsify` runs."""

"""The numbers of the method by which widths are chosen.

Each line says what the number is, what it trades, and what chose it.
"""

from __future__ import annotations

RATIO_TOLERANCE = 0.01
"""How far a reached ratio may be from the asked one. A choice is taken once it is within half of
it; where none comes within it, the nearest is taken, and a warning tells. Tighter would cost round
widths. Kept from the first version; not measured."""

AUTO_ROUNDING = (8, 4, 2, 1)
"""Multiples that kept counts are rounded to, the first that meets the budget. Kernels work on
vectors of 4 to 16 channels; small networks need finer steps. Kept from the first version; not
measured."""

ROUNDED_FROM_STEPS = 4
"""Groups narrower than so many steps are not rounded: one step would be too large a part of them.
Kept from the first version; not measured."""

REACHES = (1 / 16, 1 / 4, 1 / 2, 1.0)
"""How far a group may move from its level to meet the budget exactly, as a share of its size, tried
in this order. Near the level, the scores decide; far from it, the budget does. Introduced with
`tools/bench_coverage.py`; the values were not swept."""

LOPSIDED_PART = 3
"""Equal widths that the code only *may* need are given up where some group would keep less than one
part in so many of what it keeps without them. Not measured."""

FLAT_RISE = 1e-6
"""Relative rise of the levels over a flat stretch of a loss curve, from its first index to its
last. Without it, all indices of the stretch share one level and could only go together. It need
only be far below differences that matter; not measured."""

PRICE_ROUNDS = 8
"""Rounds in which prices (what an index saves) and counts follow from each other. They are halved
towards each other, so that few are needed. Not measured."""

EXCHANGE_ROUNDS = 100
"""Most exchanges between two groups, each the best there is. A bound on time; not measured."""

EXCHANGE_PAIRS = 50
"""Pairs of steps that are tried for an exchange, those first that gain most. More cost time on
networks of many groups, where all pairs are their number squared. Not measured."""

DESCENT_PASSES = 64
"""Most passes of single steps towards the budget. A bound on time: the descent ends by itself when
no step helps."""

COMPILED_FROM_GROUPS = 64
"""Groups from which on the descent is compiled; for fewer, calls of NumPy take less time than
loading the compiled code. Both find the same counts."""

NEAREST_ROUNDS, NEAREST_PAIRS = 8, 60
"""Rounds in which counts of two groups are changed at once where single steps miss the budget, and
pairs of groups that are tried in each. Networks of more groups hardly miss it. Not measured."""

STAIRCASE_STOPS = 16
"""Counts at which a group may stop on a staircase of latency. More stops follow it more closely,
and each is a table lookup for each group and move. Not measured."""

THRESHOLD_DEVIATIONS = 2.0
"""Standard deviations below the mean of its group from which on an index is an outlier: the 2 of
`threshold="mu-2sigma"`."""

LEARNING_ROUNDS = 8
"""How often widths that the caller's code equates are learned and the choice is made again. More
keep the class of more models and take time. Raised to 8 where Mamba-2, MViT, RAFT and others came
to keep their classes (`tools/bench_coverage.py`)."""

LARGE_WEIGHT = 0.1
"""Share of the parameters from which on an error names a weight that nothing can be removed
from."""

AIM_ROUNDS = 5
"""Choices that are measured to meet a latency, each aimed by how far the last one missed. More come
nearer, and each times the whole model. Not measured."""

TABLE_ATTEMPTS = 3
"""Tables of latency that are measured where a busy machine disturbs the earlier ones."""

MEASUREMENT_NOISE = 0.015
"""What two measurements of the same model differ by, as a share of its time: ratios that are nearer
to each other count as equal. Kept from the first version of measured latency; not measured anew."""

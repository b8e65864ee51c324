"""The numbers of the method by which latency is measured.

Each line says what the number is and what it trades. They are kept from the first versions of
measured latency, whose figures `tools/bench_latency.py` gives; one by one they were not measured.
"""

from __future__ import annotations

FRACTIONS = (1 / 8, 1 / 4, 1 / 2, 3 / 4, 1.0)
"""Fractions of a length at which each operation is timed; between them, times are interpolated. An
operation of two lengths is timed at all 25 pairs, so that more cost time as their square."""

STEPS = (16, 8, 4)
"""Steps of a latency staircase that are looked for, the largest first: lengths short of a multiple
that take as long as the multiple. Vector registers hold 4 (NEON, SSE), 8 (AVX) or 16 (AVX-512)
float32."""

PROBED = 4
"""Kinds of operations, those of most work, on which the step is looked for. The largest step that
any shows counts. More take time; whether they would show a larger step was not measured."""

FLAT = 0.99
"""A length short of a multiple that takes more than this share of the multiple's time gains nothing
by it: the step is one of the staircase."""

LEAST_RUNS = 3
"""Runs of an operation, at least: two that agree, and one more."""

ENOUGH_RUNS = 7
"""Runs of an operation that are enough where the two fastest agree."""

ENOUGH_SECONDS = 0.01
"""Seconds of runs of an operation that are enough where the two fastest agree."""

AGREEMENT = 0.1
"""The two fastest runs of an operation agree if the second takes at most this share longer. Another
program on the machine adds a different time to each run, so agreement means that it was quiet."""

BUSY_RUNS = 20
"""Runs of an operation after which it counts as disturbed though no two have agreed."""

BUSY_SECONDS = 0.3
"""Seconds of runs of an operation after which it counts as disturbed though no two have agreed."""

LONGER = 4
"""How many times longer an operation that was disturbed is tried at each further attempt."""

WARM_UP = 2
"""Forward passes of a whole model that do not count: the first ones choose kernels and fill
caches."""

PASSES = 15
"""Forward passes of a whole model that count, at least."""

PASS_SECONDS = 2.0
"""Seconds up to which short models run more often than `PASSES`, at most four times as often."""

RATIO_ERROR = 0.01
"""Standard error of the ratio of two models' times that needs no more passes. Below the noise of
0.015 that choices by latency allow for."""

BUSY_PASS_SECONDS = 10.0
"""Seconds after which no more passes are made, however much the ratios differ."""

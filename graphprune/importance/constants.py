"""The numbers of the method by which importance is measured.

Each line says what the number is, what it trades, and what chose it.
"""

from __future__ import annotations

NEEDED = 10.0
"""Added to a loss curve where hardly anything of a group would be left: indices of that level stay
as long as any others can go. The highest other level of a curve is -log 0.001 = 6.9 (`PASSED_LEAST`
of the compensation); any number above it does."""

HESSIAN_PROBES = 4
"""Vectors of random signs for each batch in Hutchinson's estimate of the Hessian's diagonal
(`"obd"`). The variance falls as 1/n, the time grows as n. Kept from the first version; not
measured."""

THREADS_FROM = 1 << 19
"""Elements of a weight from which on its sums are shared out to threads; below, starting threads
takes longer than it saves. Kept from the first version; `tools/bench_importance.py` measures the
whole."""

ROWS_FROM = 32
"""Elements of a kernel (height times width) from which on they are summed as rows of their own;
below, each is a column at first, because short inner loops are slow. Only time depends on it;
`tools/bench_importance.py` measures it."""

COMPILED_FROM = 1 << 12
"""Elements of a weight from which on compiled sums are called; below, a call of NumPy or PyTorch is
as fast."""

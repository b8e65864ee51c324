"""Sets of models for the benchmarks, by name."""

"""Inputs for statistics, made where the caller gives no data."""

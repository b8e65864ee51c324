"""Samples, read or made, and the moments of the values that they give."""

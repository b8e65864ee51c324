"""Inputs that are made where there are no data."""

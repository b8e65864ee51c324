"""Inputs that statistics are taken from, given or made, and the moments of what layers read."""

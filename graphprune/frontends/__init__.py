"""Frontends: lift a model to the neutral graph, lower it back to the same kind."""

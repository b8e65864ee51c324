"""The one loop that runs a graph."""

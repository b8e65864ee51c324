"""From a model to a file that ships: shrink, recover, quantise, export."""

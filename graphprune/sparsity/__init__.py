"""Sparsity: which numbers of which weights become zero, and what those that stay become."""

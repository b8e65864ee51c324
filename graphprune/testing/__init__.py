"""The oracle for tests of one's own rules, passes and models: removal equals masking."""

from graphprune.testing.check import check_graph, check_rule
from graphprune.testing.masking import check_masking, random_keep

__all__ = ["check_graph", "check_masking", "check_rule", "random_keep"]

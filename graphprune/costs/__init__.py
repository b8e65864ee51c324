"""What a choice costs: counted in closed form, or measured.

What a cost of one's own is made of stands here: `Polynomial`, `monomials`, and the counted costs.
"""

from graphprune.costs.counted import Cost, Polynomial, channels, macs, monomials, params

__all__ = ["Cost", "Polynomial", "channels", "macs", "monomials", "params"]

"""Counting: which form a layer takes, and how much it may hold.

For one group with N rows (examples times positions) of a product z = W a with p inputs and q
outputs, in multiplications beyond the two forward passes, two backward passes and one weight
gradient that both forms need:

- Gram form: N^2 (p + q) three times (the norm, the forward, the backward);
- weight form: N p q to build the group's weight gradient, and the traffic of a few tensors as large
  as the weights.
"""

from __future__ import annotations

#: multiplications that cost as much as passing one number through memory, all passes together
TRAFFIC = 40
#: the same for one number of a patch, which is copied out, kept and added back
PATCH = 60


def gram_is_cheaper(N: int, p: int, q: int, *, patches: bool) -> bool:
    """Whether the Gram form costs less than the weight form."""
    gram = 3 * N * N * (p + q) + (PATCH * N * p if patches else 0)
    return gram < N * p * q + TRAFFIC * p * q


def gram_numbers(N: int, p: int, q: int) -> int:
    """Numbers that one group's Gram form holds through the second pass."""
    return 2 * N * N + N * (2 * p + q)


def weight_numbers(p: int, q: int) -> int:
    """Numbers that one group's weight form holds: its weights, and for a while their gradient."""
    return 2 * p * q

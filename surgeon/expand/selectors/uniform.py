"""Evenly spread: the last block of each of `count` groups of neighbours.

Source: LLaMA Pro (Wu et al., arXiv 2401.02415): 8 groups of 4 of 32 blocks, a copy after the last of each.
"""

from __future__ import annotations

from surgeon.errors import UsageError


def uniform(depth: int, count: int | None) -> list[int]:
    """Blocks ceil((g + 1) * depth / count) - 1 for g = 0 .. count - 1; where count does not divide depth, groups
    differ by one block, and beyond depth some blocks are taken more than once."""
    if count is None:
        raise UsageError("the selector uniform needs the number of blocks to add", "--add", "add --add N")
    return [-(-(group + 1) * depth // count) - 1 for group in range(count)]

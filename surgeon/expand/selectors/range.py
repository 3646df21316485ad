"""A run of neighbouring blocks.

Source: SOLAR (arXiv 2312.15166) repeats blocks 8 to 23 of 32; Yi-9B (arXiv 2403.04652) blocks 12 to 27 of 32.
"""

from __future__ import annotations

import builtins

from surgeon.errors import UsageError

COUNTS = True  # its options say how many blocks are added


def range(depth: int, count: int | None, *, start: int, stop: int) -> list[int]:
    """Blocks start, start + 1, ..., stop - 1. With --layout block their copies follow as one run (SOLAR's order)."""
    if not 0 <= start < stop <= depth:
        raise UsageError(
            f"blocks {start} to {stop} (exclusive) are no run of a model with {depth} blocks",
            "--option start, --option stop",
            f"choose 0 <= start < stop <= {depth}",
        )
    if count is not None and count != stop - start:
        raise UsageError(
            f"--add {count} and the {stop - start} blocks from {start} to {stop} contradict each other",
            "--add",
            "drop --add",
        )
    return list(builtins.range(start, stop))

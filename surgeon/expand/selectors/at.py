"""The blocks that a person names."""

from __future__ import annotations

from surgeon.errors import UsageError

COUNTS = True  # its options say how many blocks are added


def at(depth: int, count: int | None, *, blocks: list[int]) -> list[int]:
    """A copy of each block of `blocks` (numbers from 0); a block named twice is copied twice."""
    if not blocks:
        raise UsageError("no block is named", "--at", "give block numbers, such as --at 3,7,11")
    for block in blocks:
        if not 0 <= block < depth:
            raise UsageError(f"there is no block {block}", "--at", f"give numbers from 0 to {depth - 1}")
    if count is not None and count != len(blocks):
        raise UsageError(f"--add {count} and {len(blocks)} named blocks contradict each other", "--at", "drop --add")
    return sorted(blocks)

"""Blocks in words: all, new, or numbers such as 0-3,7."""

from __future__ import annotations

import re

from surgeon.checkpoint.lineage import Lineage
from surgeon.checkpoint.new_blocks import new_blocks
from surgeon.errors import SurgeonError, UsageError


def chosen_blocks(text: str, depth: int, lineage: Lineage | None, where: str) -> list[int]:
    """The blocks that the words name, ascending. Raises UsageError on wrong words, SurgeonError where none is new."""
    if text == "all":
        return list(range(depth))
    if text == "new":
        found = list(new_blocks(lineage))
        if not found:
            raise SurgeonError(
                "the model has no new blocks in its lineage",
                where,
                "use --blocks all, or deepen it first: expand-layers",
            )
        return found
    return _numbered(text, depth)


def _numbered(text: str, depth: int) -> list[int]:
    found: dict[int, None] = {}
    for part in text.split(","):
        match = re.fullmatch(r"(\d+)(?:-(\d+))?", part.strip())
        if match is None:
            raise UsageError(f"{part!r} names no blocks", f"--blocks {text}", "write all, new, or numbers: 0-3,7")
        first, last = int(match[1]), int(match[2] or match[1])
        if last < first or last >= depth:
            raise UsageError(f"there are no blocks {part}", f"--blocks {text}", f"the blocks are 0-{depth - 1}")
        found |= dict.fromkeys(range(first, last + 1))
    return sorted(found)

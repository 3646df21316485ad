"""Blocks in words: all, new, or numbers such as 0-3,7."""

from __future__ import annotations

import re

from surgeon.checkpoint.lineage import Lineage
from surgeon.errors import SurgeonError, UsageError


def chosen_blocks(text: str, depth: int, lineage: Lineage | None, where: str) -> list[int]:
    """The blocks that the words name, ascending. Raises UsageError on wrong words, SurgeonError where none is new."""
    if text == "all":
        return list(range(depth))
    if text == "new":
        found = new_blocks(lineage, depth)
        if not found:
            raise SurgeonError(
                "the model has no new blocks in its lineage",
                where,
                "use --blocks all, or deepen it first: expand-layers",
            )
        return found
    return _numbered(text, depth)


def new_blocks(lineage: Lineage | None, depth: int) -> list[int]:
    """The blocks of the model that its oldest known ancestor does not have, by their present numbers."""
    present: dict[int, int] = {block: block for block in range(depth)}  # number now -> number at the step looked at
    new: dict[int, None] = {}
    for step in lineage.chain() if lineage is not None else ():
        if step.blocks is None:
            continue
        added = {entry.block for entry in step.blocks.new}
        new |= dict.fromkeys(now for now, then in present.items() if then in added)
        present = {now: step.blocks.source[then] for now, then in present.items()}
    return sorted(new)


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

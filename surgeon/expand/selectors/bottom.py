"""The first blocks, those nearest the embedding."""

from __future__ import annotations

from surgeon.errors import UsageError


def bottom(depth: int, count: int | None) -> list[int]:
    """Blocks 0, ..., count - 1.

    Source: an ablation of LLaMA Pro (Wu et al., arXiv 2401.02415), which found it far worse than uniform and top.
    """
    if count is None:
        raise UsageError("the selector bottom needs the number of blocks to add", "--add", "add --add N")
    if count > depth:
        raise UsageError(f"--add {count} is more than the {depth} blocks there are", "--add", f"at most {depth}")
    return list(range(count))

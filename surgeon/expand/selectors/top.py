"""The last blocks, those nearest the output."""

from __future__ import annotations

from surgeon.errors import UsageError


def top(depth: int, count: int | None) -> list[int]:
    """Blocks depth - count, ..., depth - 1.

    Source: an ablation of LLaMA Pro (Wu et al., arXiv 2401.02415), which found it a little worse than uniform.
    """
    if count is None:
        raise UsageError("the selector top needs the number of blocks to add", "--add", "add --add N")
    if count > depth:
        raise UsageError(f"--add {count} is more than the {depth} blocks there are", "--add", f"at most {depth}")
    return list(range(depth - count, depth))

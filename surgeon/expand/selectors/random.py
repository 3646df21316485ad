"""Blocks drawn without replacement: the control that a choice by importance is compared with."""

from __future__ import annotations

from surgeon.errors import UsageError


def random(depth: int, count: int | None, seed: int) -> list[int]:
    """`count` different blocks, each set of them as likely as another; the seed decides.

    Source: none, a baseline.
    """
    import numpy as np

    if count is None:
        raise UsageError("the selector random needs the number of blocks to add", "--add", "add --add N")
    if count > depth:
        raise UsageError(f"--add {count} is more than the {depth} blocks there are", "--add", f"at most {depth}")
    generator = np.random.Generator(np.random.Philox(seed))
    return sorted(int(block) for block in generator.choice(depth, size=count, replace=False))

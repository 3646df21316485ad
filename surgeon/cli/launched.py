"""Which process of several this one is, as `torchrun` says it in the environment."""

from __future__ import annotations

import os

_NUMBERS = ("RANK", "WORLD_SIZE", "MASTER_PORT")


def launched() -> tuple[int, int]:
    """Number of this process, and how many there are; (0, 1) where no launcher says so."""
    found = [os.environ.get(key, "") for key in _NUMBERS]
    if not os.environ.get("MASTER_ADDR") or not all(word.isdecimal() for word in found):
        return 0, 1
    return int(found[0]), int(found[1])

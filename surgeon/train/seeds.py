"""Random numbers of a step: a function of (seed, step, process), so there is no state of a generator to keep."""

from __future__ import annotations

import hashlib

import torch


def seed_step(device: torch.device, seed: int, step: int, rank: int = 0) -> None:
    """Seed what draws on the host and on this device.

    What torch.manual_seed does, without the devices that are not used: for those it formats the stack, a third of a
    millisecond a step.
    """
    number = step_seed(seed, step, rank)
    torch.default_generator.manual_seed(number)
    if device.type == "cuda":
        torch.cuda.manual_seed(number)


def step_seed(seed: int, step: int, rank: int = 0) -> int:
    """A seed of its own for every step (63 bits), and for every rank."""
    words = f"{seed}/{step}" + (f"/{rank}" if rank else "")
    return int.from_bytes(hashlib.sha256(words.encode()).digest()[:8], "big") >> 1

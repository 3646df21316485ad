"""AdamW, as torch has it."""

from __future__ import annotations

from typing import Any

import torch

from surgeon.train.strength import Epsilon


def adamw(groups: list[dict[str, Any]], betas: tuple[float, float], *, eps: Epsilon = 1e-8) -> torch.optim.Optimizer:
    """AdamW with decoupled weight decay, fused where torch has a fused kernel for the device.

    groups: torch parameter groups with `params`, `lr` and `weight_decay`. Arithmetic and moments in float32.
    Source: Loshchilov and Hutter 2019 (1711.05101)
    """
    return torch.optim.AdamW(groups, betas=betas, eps=eps, fused=True)

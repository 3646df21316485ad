"""How much memory a run has taken where it computes."""

from __future__ import annotations

import torch

from surgeon.ops.memory import peak_rss_bytes


def peak_memory(device: torch.device) -> int:
    """Bytes at the highest so far: on a GPU what torch held in tensors there, on a CPU all resident memory of this
    process. What the GPU's driver and other processes hold there is not counted."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device)
    return peak_rss_bytes()

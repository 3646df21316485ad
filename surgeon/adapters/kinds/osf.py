"""OSF: the small singular parts of a matrix are trained, beside the large ones, which stay."""

from __future__ import annotations

from surgeon.adapters.kind import Kind


def osf(*, rank: int = 16) -> Kind:
    """U, S and V of the singular values from `rank` on are trained; nothing changes at first, up to the rounding of
    float32. rank: how many of the largest are kept (PEFT's effective_rank counts them).

    PEFT projects the gradient, not the update: under Adam the kept part moves as well.
    Source: Nayak et al. 2025 (arXiv 2504.07097), as PEFT has it.
    """
    return Kind("OSF", {"effective_rank": rank})

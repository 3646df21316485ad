"""The identity by zeroed residual writers, weights and biases: the new block adds zero to the residual stream.

Source: LLaMA Pro (Wu et al., arXiv 2401.02415), section 3; experts and biases too, and by role rather than by name.
"""

from __future__ import annotations

from surgeon.arch.family import Family
from surgeon.expand.fill import Filled, identity_start, silence_writers


def zero(family: Family, block: int) -> Filled:
    """A copy of `block` whose output projections (attention, MLP, every expert) are zero; exact in any dtype.

    It needs branches without norms behind them to train well: behind a norm the first step explodes (the norm's
    derivative at zero is gain / sqrt(eps)). norm_gain is the fill for those, auto for blocks that have both.
    """
    sources = identity_start(family, block)
    silence_writers(sources, family, family.residual_writers)
    return Filled(sources)

"""The identity by zeroed residual writers, weights and biases: the new block adds zero to the residual stream.

Source: LLaMA Pro (Wu et al., arXiv 2401.02415), section 3; experts and biases too, and by role rather than by name.
"""

from __future__ import annotations

from surgeon.arch.family import Family
from surgeon.expand.fill import Filled, identity_start
from surgeon.ops.plan import Zeros


def zero(family: Family, block: int) -> Filled:
    """A copy of `block` whose output projections (attention, MLP, every expert) are zero; exact in any dtype.

    In a family with norms behind its branches the first step of training explodes (the norm's derivative at zero
    is gain / sqrt(eps)): norm_gain is the fill for those.
    """
    sources = identity_start(family, block)
    for name in sources:
        if family.is_residual_writer(family.unit(name).part):
            sources[name] = Zeros()
    return Filled(sources)

"""The identity that also trains well: norm_gain for branches that end in a norm, zero for the others."""

from __future__ import annotations

from surgeon.arch.family import Family
from surgeon.expand.fill import Filled, identity_start, silence_norms, silence_writers


def auto(family: Family, block: int) -> Filled:
    """Of every branch of the copy: the norm behind it silenced (Gemma 2/3, OLMo 2/3, GLM-4 ...), as norm_gain does;
    where there is none, its output projections zeroed, as zero does. Families may have both, even in one block."""
    ends = family.branches(block)
    sources = identity_start(family, block)
    multipliers = silence_norms(sources, family, ends.post_norms)
    silence_writers(sources, family, ends.bare)
    return Filled(sources, multipliers)

"""The identity that also trains well: norm_gain where the family has norms behind its branches, else zero."""

from __future__ import annotations

from surgeon.arch.family import Family
from surgeon.expand.fill import Filled
from surgeon.expand.fills.norm_gain import norm_gain
from surgeon.expand.fills.zero import zero


def auto(family: Family, block: int) -> Filled:
    """norm_gain where norms stand behind the branches (Gemma 2/3, OLMo 2/3, GLM-4 ...), zero for the others."""
    return norm_gain(family, block) if family.post_norms else zero(family, block)

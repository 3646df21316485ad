"""A plain copy of the source block: the model's function changes, and training has to mend it.

Source: SOLAR (Kim et al., arXiv 2312.15166), depth up-scaling; Yi-9B (arXiv 2403.04652).
"""

from __future__ import annotations

from surgeon.arch.family import Family
from surgeon.expand.fill import Filled, copies


def copy(family: Family, block: int) -> Filled:
    """Every tensor as in the source block; not an identity."""
    return Filled(copies(family, block))

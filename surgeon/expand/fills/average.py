"""The mean of the two blocks that a new one stands between; not an identity.

Source: none that proposes it for its own sake; a baseline of depth up-scaling (see LESA, arXiv 2502.13794).
"""

from __future__ import annotations

from collections.abc import Mapping

from surgeon.arch.family import Family
from surgeon.checkpoint.header import StoredTensor
from surgeon.expand.between import between
from surgeon.expand.fill import Filled, Gap


def average(family: Family, block: int, gap: Gap, tensors: Mapping[str, StoredTensor]) -> Filled:
    """Half of the source block and half of the old block behind it, in float64, rounded once; not an identity.

    Several copies in one gap are all the same: interpolate spreads them.
    """
    return Filled(between(family, block, gap, tensors, 0.5, "average"))

"""New blocks spread evenly on the line between the two old ones that they stand between; not an identity.

Source: interpolation between neighbouring layers is the baseline that LESA (arXiv 2502.13794) predicts better than.
"""

from __future__ import annotations

from collections.abc import Mapping

from surgeon.arch.family import Family
from surgeon.checkpoint.header import StoredTensor
from surgeon.errors import UsageError
from surgeon.expand.between import between
from surgeon.expand.fill import Filled, Gap


def interpolate(
    family: Family, block: int, gap: Gap, tensors: Mapping[str, StoredTensor], *, t: float | None = None
) -> Filled:
    """(1 - t) times the source block plus t times the old one behind it, in float64, rounded once; not an identity.

    t: by default k / (n + 1) for the k-th of the n new blocks of the gap, so that they are evenly spaced.
    """
    if t is not None and not 0 <= t <= 1:
        raise UsageError(f"t = {t:g} is not between the two blocks", "--option-fill t", "give a number from 0 to 1")
    where = gap.number / (gap.count + 1) if t is None else t
    return Filled(between(family, block, gap, tensors, where, "interpolate"))

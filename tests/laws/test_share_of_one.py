"""The jump of a fitted curve where no general text is left is no share to train at."""

from __future__ import annotations

import numpy as np
import pytest

from surgeon.laws.law import Array
from surgeon.laws.share import largest_share, least_domain


def general(share: Array) -> Array:
    """Rises from 2.4 to about 2.9, and falls to 2.5 at a share of 1, as a fit with eta at its least does."""
    return 2.0 + 0.4 * np.power(1 - share, 0.01) + 0.5 * share**2


def test_the_largest_share_is_where_the_curve_leaves_the_bound() -> None:
    assert general(np.array([1.0]))[0] < 2.55 < general(np.array([0.9999]))[0]
    found = largest_share(general, 2.55)
    assert found is not None and found < 0.7 and general(np.array([found]))[0] == pytest.approx(2.55, abs=1e-9)
    assert largest_share(lambda share: share * 0 + (share < 1), 0.5) is None


def test_the_least_domain_loss_is_looked_for_below_it() -> None:
    found = least_domain(lambda share: 3 - share, lambda share: general(share) <= 2.55)
    assert found is not None and found == pytest.approx(largest_share(general, 2.55), abs=1e-6)


def test_a_share_of_one_that_its_neighbours_bear_out_is_taken() -> None:
    assert largest_share(lambda share: 2 - share, 1.5) == 1.0
    assert least_domain(lambda share: 3 - share, lambda share: share > 0.9) == 1.0

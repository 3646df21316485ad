"""The CMR law: published numbers, and critical shares that follow the bound."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from surgeon.errors import SurgeonError
from surgeon.laws.fit import fit_law
from surgeon.laws.kinds.cmr import TOKEN_UNIT, cmr, critical_ratio
from surgeon.laws.law import Law, Points, Runs
from surgeon.laws.power import fit_power, power

PUBLISHED = (  # (2407.17467), Table 5, Finance: the constants for a model size, and the critical ratio at 20 B tokens
    ((0.22524761, 0.26944345, -0.48139982), 0.298),
    ((0.7520627, 0.13720245, -1.06581937), 0.349),
    ((-2.36384831, -0.15125569, 1.59223649), 0.414),
    ((-2.5368197, -0.42071423, 0.84375368), 0.478),
)
BILLION = 1e9


@pytest.mark.parametrize(("constants", "ratio"), PUBLISHED)
def test_the_published_constants_give_the_published_ratios(
    constants: tuple[float, float, float], ratio: float
) -> None:
    assert critical_ratio(20e9, *constants) == pytest.approx(ratio, abs=5e-4)


@pytest.mark.parametrize(("constants", "ratio"), PUBLISHED)
def test_a_power_law_is_found_from_its_points(constants: tuple[float, float, float], ratio: float) -> None:
    tokens = np.linspace(20, 400, 8)
    found = fit_power(tokens, power(tokens, *constants))
    assert (found["a"], found["s"], found["b"]) == pytest.approx(constants, rel=1e-6)
    assert critical_ratio(20e9, **found) == pytest.approx(ratio, abs=5e-4)


def test_the_domain_losses_of_table_2_foretell_the_next() -> None:
    """(2407.17467), Table 2, 460M: domain loss at R = 1, 3/4, 1/2, 1/3; at 1/4 it is 1.5561."""
    found = fit_power(np.array([1, 0.75, 0.5, 1 / 3]), np.array([1.4628, 1.4844, 1.5122, 1.5387]))
    assert float(power(0.25, **found)) == pytest.approx(1.5561, rel=1e-3)


@settings(max_examples=40)
@given(a=st.floats(0.01, 2), s=st.floats(0.1, 30) | st.floats(-3, -0.1), b=st.floats(0.5, 3))
def test_any_power_law_is_met_at_its_points(a: float, s: float, b: float) -> None:
    share = np.array([0.1, 0.25, 0.4, 0.6, 0.8, 1.0])
    losses = power(share, a, s, b)
    np.testing.assert_allclose(power(share, **fit_power(share, losses)), losses, rtol=1e-4)


def runs(tokens: tuple[float, ...] = (5, 10, 20, 40)) -> Runs:
    """General loss 2.6 + 0.4 R^4 / T^0.1, domain loss 1 + R^-0.3 / 2; started at 2.7."""
    shares = np.array([0.125, 0.25, 0.5, 0.75, 1.0])
    points = Points(
        np.full(5 * len(tokens), 0.46 * BILLION), np.repeat(tokens, 5) * BILLION, np.tile(shares, len(tokens))
    )
    general = 2.6 + 0.4 * points.share**4 / (points.tokens / BILLION) ** 0.1
    return Runs(points, {"general": general, "domain": 1 + points.share**-0.3 / 2}, {460_000_000: 2.7})


def critical(law: Law, fitted: dict[str, dict[str, float]], tokens: float, bound: float) -> float | None:
    assert law.critical is not None
    return law.critical(fitted, 0.46 * BILLION, tokens * BILLION, bound)


def test_critical_shares_are_where_the_curve_meets_the_bound_and_go_on_as_a_power_of_the_tokens() -> None:
    law, fitted = cmr(), fit_law(runs(), "cmr", {})
    assert all(q.r2 > 1 - 1e-9 for q in fitted.quality.values())
    for tokens in (5, 10, 20, 40, 15, 100):
        true = ((2.75 - 2.6) / 0.4 * tokens**0.1) ** 0.25
        assert critical(law, fitted.constants, tokens, 2.75) == pytest.approx(true, rel=1e-3)
    assert TOKEN_UNIT == 0.2 * BILLION


@settings(max_examples=40)
@given(low=st.floats(2.4, 3.2), more=st.floats(0, 0.5), tokens=st.sampled_from([5, 10, 20, 40]))
def test_a_larger_bound_never_gives_a_smaller_share(low: float, more: float, tokens: float) -> None:
    one, two = (critical(cmr(), FITTED, tokens, bound) for bound in (low, low + more))
    assert (two is not None and two >= one) if one is not None else True
    assert one is None or 0 <= one <= 1


FITTED = fit_law(runs(), "cmr", {}).constants


def test_the_ends_of_the_bound() -> None:
    assert critical(cmr(), FITTED, 20, 1e9) == 1.0  # whatever may be lost: all of it domain
    assert critical(cmr(), FITTED, 20, 2.5) is None  # less than at any share
    with pytest.raises(SurgeonError, match="needs three fitted ones"):
        critical(cmr(), FITTED, 15, 2.5)


def test_a_share_of_0_where_a_curve_falls_is_refused_and_where_all_are_equal_it_is_like_the_others() -> None:
    with pytest.raises(SurgeonError, match="domain loss falls with the share and is infinite"):
        cmr().predict(FITTED, Points.at(0.46 * BILLION, 5 * BILLION, 0.0))
    flat = runs((5,))
    flat.losses["general"][:], flat.losses["domain"][:] = 2.7, 1.5
    found = cmr().predict(fit_law(flat, "cmr", {}).constants, Points.at(0.46 * BILLION, 5 * BILLION, np.array([0, 1])))
    assert found["general"].tolist() == [2.7, 2.7] and found["domain"].tolist() == [1.5, 1.5]


def curves(shares: dict[float, float]) -> dict[str, dict[str, float]]:
    """General losses R / share, which meet the bound 1 at the share; billions of tokens -> share."""
    return {f"general at {t * BILLION:.0f} tokens": {"a": 1 / r, "s": 1.0, "b": 0.0} for t, r in shares.items()}


def test_a_critical_share_between_the_fitted_tokens_leaves_out_where_all_is_within_the_bound() -> None:
    """R = 1.5 - 0.5 T^0.2 with T in billions; at 0.5 and at 1 billion tokens it is over 1, or 1."""

    def law(tokens: float) -> float:
        return 1.5 - 0.5 * tokens**0.2

    fitted = curves({t: law(t) for t in (0.5, 2, 10, 50)})
    assert critical(cmr(), fitted, 0.5, 1.0) == 1.0 and critical(cmr(), fitted, 10, 1.0) == pytest.approx(law(10))
    assert critical(cmr(), fitted, 20, 1.0) == pytest.approx(law(20), rel=1e-6)
    assert critical(cmr(), fitted, 0.6, 1.0) == 1.0  # the power law says more than all
    assert critical(cmr(), fitted, 1000, 1.0) is None  # and here less than nothing


def test_what_is_not_fitted_is_refused() -> None:
    with pytest.raises(SurgeonError, match="no curve at 15,000,000,000 tokens"):
        cmr().predict(FITTED, Points.at(0.46 * BILLION, 15 * BILLION, 0.5))
    two_sizes = runs((5, 10))
    two_sizes.points.parameters[0] = BILLION
    with pytest.raises(SurgeonError, match="2 model sizes"):
        fit_law(two_sizes, "cmr", {})
    few = runs((5,))
    few.points.share[:3] = 1.0
    with pytest.raises(SurgeonError, match="2 shares at 5,000,000,000 tokens"):
        fit_law(few, "cmr", {})
    zero = runs((5,))
    zero.points.share[0] = 0.0
    with pytest.raises(SurgeonError, match="share of 0"):
        fit_law(zero, "cmr", {})

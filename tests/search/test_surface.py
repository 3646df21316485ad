"""Quadratic surfaces through losses, and where the objective is least on them."""

from __future__ import annotations

from itertools import product

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from surgeon.search.objective import Objective, Point
from surgeon.search.surface import fit, nearest, propose

LEAST = (0.3, 0.8, 0.55)


def bowl(centre: tuple[float, ...], curve: float = 2.0, coupling: float = 0.7) -> object:
    """A convex quadratic with its minimum there."""
    at = np.asarray(centre)
    matrix = curve * np.eye(len(at)) + coupling * np.ones((len(at), len(at)))
    return lambda w: float((np.asarray(w) - at) @ matrix @ (np.asarray(w) - at)) + 1.5


def grid(vectors: int, losses: list[object], side: int = 5) -> list[Point]:
    axis = np.linspace(0, 1.25, side).tolist()
    return [Point(w, tuple(f(w) for f in losses), "grid") for w in product(axis, repeat=vectors)]  # type: ignore[operator]


@pytest.mark.parametrize("vectors", [1, 2, 3])
def test_a_quadratic_loss_is_fitted_exactly_and_its_minimum_proposed(vectors: int) -> None:
    loss = bowl(LEAST[:vectors])
    points = grid(vectors, [loss], 3 if vectors == 3 else 5)
    best = min(points, key=lambda p: p.losses)
    surface = fit(points, best.weights, 0.3125)
    anywhere = np.random.default_rng(0).uniform(-1, 2, (20, vectors))
    np.testing.assert_allclose(surface(anywhere)[:, 0], [loss(w) for w in anywhere], rtol=1e-9)  # type: ignore[operator]
    spacing = 0.625 if vectors == 3 else 0.3125
    proposed = propose(points, best, Objective("x", ("x",)), (0.0, 1.25), spacing)
    np.testing.assert_allclose(proposed, LEAST[:vectors], atol=5e-4)


def test_the_least_largest_regret_of_two_parabolas_is_where_they_cross() -> None:
    """Losses (w - 0.2)^2 and 3 (w - 0.9)^2; the grid holds both minima, so the regrets are the losses themselves."""
    points = [Point((w,), ((w - 0.2) ** 2, 3 * (w - 0.9) ** 2), "grid") for w in (0.0, 0.2, 0.55, 0.9, 1.25)]
    crossing = (0.2 + np.sqrt(3) * 0.9) / (1 + np.sqrt(3))
    best = min(points, key=lambda p: max(p.losses))
    (found,) = propose(points, best, Objective("min-max", ("a", "b")), (0.0, 1.25), 0.35)
    assert abs(found - crossing) <= 5e-4
    (mean,) = propose(points, best, Objective("mean", ("a", "b")), (0.0, 1.25), 0.35)
    assert abs(mean - (0.2 + 3 * 0.9) / 4) <= 5e-4
    (alone,) = propose(points, points[1], Objective("a", ("a", "b")), (0.0, 1.25), 0.35)
    assert abs(alone - 0.2) <= 5e-4


@settings(max_examples=40, deadline=None)
@given(
    seed=st.integers(0, 10**6),
    vectors=st.integers(1, 3),
    objective=st.sampled_from(["min-max", "mean", "b"]),
    low=st.sampled_from([0.0, -0.5, 0.25]),
)
def test_a_proposal_is_in_the_range_near_the_best_and_rounded(
    seed: int, vectors: int, objective: str, low: float
) -> None:
    drawn = np.random.default_rng(seed)
    axis = np.linspace(low, 1.25, 3).tolist()
    points = [Point(w, tuple(drawn.normal(size=2).tolist()), "grid") for w in product(axis, repeat=vectors)]
    best = points[int(drawn.integers(len(points)))]
    spacing = (1.25 - low) / 2
    proposed = propose(points, best, Objective(objective, ("a", "b")), (low, 1.25), spacing)
    near, reach = nearest(points, best, spacing)
    assert best in near and all(low <= w <= 1.25 for w in proposed)
    assert all(abs(w - b) <= reach + 5e-4 for w, b in zip(proposed, best.weights, strict=True))
    assert all(w == round(w, 3) or w in (low, 1.25) for w in proposed)
    assert proposed == propose(points, best, Objective(objective, ("a", "b")), (low, 1.25), spacing)


def test_at_a_corner_the_box_grows_until_the_points_determine_a_surface() -> None:
    points = grid(2, [bowl((0.0, 0.0))])
    best = next(p for p in points if p.weights == (0.0, 0.0))
    near, reach = nearest(points, best, 0.3125)
    assert len(near) == 9 and reach == 0.625
    assert propose(points, best, Objective("x", ("x",)), (0.0, 1.25), 0.3125) == (0.0, 0.0)


def test_a_flat_loss_proposes_the_least_weights_of_the_box() -> None:
    """Two equal models: no weight is better than another, and the reference is taken."""
    points = [Point((w,), (2.0,), "grid") for w in (0.0, 0.625, 1.25)]
    assert propose(points, points[0], Objective("x", ("x",)), (0.0, 1.25), 0.625) == (0.0,)

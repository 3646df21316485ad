"""The points of a search on losses that are formulas: how many, which is chosen, which are on the front."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from surgeon.search.objective import Objective, Point, choose, front, losses_of, regrets_of
from surgeon.search.points import Losses, Space, Weights, compared, search

CORPORA = ("a", "b", "c")


class Counted:
    """Smooth losses of some corpora with their minima at random places; counts how often it is asked."""

    def __init__(self, seed: int, vectors: int, corpora: int) -> None:
        drawn = np.random.default_rng(seed)
        self.centres = drawn.uniform(-0.2, 1.4, (corpora, vectors))
        self.curves = drawn.uniform(0.2, 2.0, (corpora, vectors))
        self.tilts = drawn.uniform(-0.3, 0.3, corpora)
        self.asked: list[Weights] = []

    def __call__(self, weights: Weights) -> Losses:
        self.asked.append(weights)
        away = np.asarray(weights) - self.centres
        found: list[float] = ((self.curves * away**2).sum(1) + self.tilts * (away**3).sum(1) + 2).tolist()
        return tuple(found)


searches = st.tuples(st.integers(0, 10**6), st.integers(1, 2), st.integers(1, 3))


@settings(max_examples=40, deadline=None)
@given(of=searches, name=st.sampled_from(["min-max", "mean", "a"]), rounds=st.integers(0, 4))
def test_the_choice_minimises_the_objective_among_the_evaluated_points(
    of: tuple[int, int, int], name: str, rounds: int
) -> None:
    seed, vectors, corpora = of
    losses = Counted(seed, vectors, corpora)
    space = Space(vectors, 0.0, 1.25, 4)
    objective = Objective(name, CORPORA[:corpora])
    points = search(losses, space, objective, rounds)
    assert len(points) == len(losses.asked) == len(set(losses.asked))  # each once, none for nothing
    at_first = list(space.at_first())
    assert [p.weights for p in points[: len(at_first)]] == [w for w, _ in at_first]
    assert len(at_first) <= len(points) <= len(at_first) + rounds
    least = [min(p.losses[c] for p in points) for c in range(corpora)]

    def value(point: Point) -> float:
        regrets = [loss - best for loss, best in zip(point.losses, least, strict=True)]
        return {"min-max": max(regrets), "mean": sum(regrets) / corpora, "a": regrets[0]}[name]

    chosen = points[choose(points, objective, (0.0, 1.25))]
    assert all(value(chosen) <= value(p) + 1e-12 for p in points)
    assert chosen.losses == Counted(seed, vectors, corpora)(chosen.weights)
    assert points == search(Counted(seed, vectors, corpora), space, objective, rounds)


@settings(max_examples=60, deadline=None)
@given(
    losses=st.lists(st.lists(st.integers(0, 4), min_size=3, max_size=3), min_size=1, max_size=25),
    corpora=st.integers(1, 3),
)
def test_the_front_is_that_of_brute_force(losses: list[list[int]], corpora: int) -> None:
    held = [entry[:corpora] for entry in losses]
    expected = [
        not any(all(o <= m for o, m in zip(other, mine, strict=True)) and other != mine for other in held)
        for mine in held
    ]
    assert front(np.array(held, dtype=np.float64)) == expected


def test_of_equal_points_the_one_of_the_least_weights_is_chosen() -> None:
    losses = [(2.0, 1.0), (1.0, 2.0), (1.0, 2.0), (2.0, 1.0)]
    weights = [(1.0, 0.0), (0.5, -0.5), (0.0, -0.25), (0.25, 0.0)]
    points = [Point(w, e, "grid") for w, e in zip(weights, losses, strict=True)]
    assert choose(points, Objective("min-max", ("a", "b")), (-1.0, 1.0)) == 2
    assert choose(list(reversed(points)), Objective("min-max", ("a", "b")), (-1.0, 1.0)) == 1
    assert choose(points, Objective("min-max", ("a", "b")), (0.0, 1.0)) == 3  # what is out of the range is not chosen


def test_regrets_are_zero_somewhere_on_every_corpus() -> None:
    points = search(Counted(3, 2, 3), Space(2, 0.0, 1.0, 3), Objective("mean", CORPORA), 2)
    regrets = regrets_of(losses_of(points))
    assert (regrets >= 0).all() and (regrets.min(0) == 0).all()


@pytest.mark.parametrize(("vectors", "count"), [(1, 5 + 1), (2, 25 + 3), (3, 125 + 4)])
def test_the_grid_has_both_ends_and_what_to_compare_with(vectors: int, count: int) -> None:
    """The reference is on the grid already; each model alone at 1, and all at 1, are not."""
    found = [w for w, _ in Space(vectors, 0.0, 1.25, 5).at_first()]
    assert len(found) == len(set(found)) == count
    assert (0.0,) * vectors in found and (1.25,) * vectors in found and (0.0,) * (vectors - 1) + (0.3125,) in found
    assert set(compared(vectors)) <= set(found)


def test_a_range_of_negative_weights_is_searched_to_its_ends() -> None:
    points = search(lambda w: ((w[0] + 0.5) ** 2,), Space(1, -0.7, 0.1, 3), Objective("a", ("a",)), 2)
    assert {p.weights for p in points} >= {(-0.7,), (0.1,), (-0.3,), (0.0,), (1.0,)}
    assert points[choose(points, Objective("a", ("a",)), (-0.7, 0.1))].weights == (-0.5,)


def test_refinement_comes_close_to_the_minimum_of_a_loss_that_is_no_quadratic() -> None:
    def loss(w: Weights) -> Losses:
        return (float(np.cosh(1.5 * (w[0] - 0.52)) + 0.2 * w[0] ** 3),)

    fine = min(loss((w,))[0] for w in np.linspace(0, 1.25, 12501))
    points = search(loss, Space(1, 0.0, 1.25, 5), Objective("a", ("a",)), 2)
    grid = min(p.losses[0] for p in points if p.kind == "grid")
    best = min(p.losses[0] for p in points)
    assert grid - fine > 1e-3 and best - fine < 2e-4 and len(points) == 8

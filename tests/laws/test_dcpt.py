"""The D-CPT law finds the constants that made the runs, and goes beyond them."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from law_runs import TRUE, grid

from surgeon.errors import SurgeonError
from surgeon.laws.fit import _trend, fit_law
from surgeon.laws.huber import huber
from surgeon.laws.kinds.dcpt import _curve, dcpt
from surgeon.laws.law import Points, Runs
from surgeon.laws.read_runs import read_runs

FAR = Points.at(8e9, 40e9, np.array([0.3, 0.5, 0.9]))  # twice the largest size and twice the longest training


def test_constants_without_noise_are_found() -> None:
    fitted = fit_law(grid(), "dcpt", {"starts": 8})
    for curve, true in TRUE.items():
        assert fitted.constants[curve] == pytest.approx(true, rel=1e-3)
        assert fitted.quality[curve].r2 > 1 - 1e-9 and fitted.quality[curve].largest_error < 1e-6


def test_with_a_thousandth_of_noise_it_describes_the_runs_and_what_lies_beyond() -> None:
    """R^2 > 0.999, and twice as far as the runs within 0.1 %: on average over draws of the noise, since how far one
    draw leads astray there is a matter of the runs and not of the optimiser."""
    errors = []
    for seed in range(4):
        fitted = fit_law(grid(1e-3, seed), "dcpt", {"starts": 4})
        assert all(q.r2 > 0.999 and q.huber < 1e-6 for q in fitted.quality.values())
        near, true = dcpt().predict(fitted.constants, FAR), dcpt().predict(TRUE, FAR)
        errors += [np.abs(near[curve] / true[curve] - 1) for curve in TRUE]
    assert np.mean(errors) < 1e-3 and np.max(errors) < 3e-3


def test_one_run_that_went_wrong_does_not_carry_the_fit_away() -> None:
    """What the Huber loss is for: least squares would spread the 20 % over its neighbours."""
    runs = grid(1e-4)
    for losses in runs.losses.values():
        losses[40] *= 1.2
    near = dcpt().predict(fit_law(runs, "dcpt", {"starts": 4}).constants, runs.points)
    true = dcpt().predict(TRUE, runs.points)
    assert all(np.abs(near[curve] / true[curve] - 1).max() < 2e-3 for curve in TRUE)


def test_the_same_runs_in_any_order_give_the_same_fit(tmp_path: Path) -> None:
    runs = grid(1e-3, tokens=(1, 10))
    columns = (runs.points.parameters, runs.points.tokens, runs.points.share, runs.losses["general"])
    rows = list(zip(*columns, runs.losses["domain"], strict=True))
    names = ("parameters", "tokens", "share", "general", "domain")
    texts = []
    for order in (rows, rows[::-1]):
        path = tmp_path / "runs.jsonl"
        path.write_text("".join(json.dumps(dict(zip(names, row, strict=True))) + "\n" for row in order))
        texts.append(fit_law(read_runs([path], None, None), "dcpt", {"starts": 3}).model_dump_json())
    assert texts[0] == texts[1]


def test_more_starts_are_never_worse() -> None:
    runs = grid(1e-2, seed=3, tokens=(1, 10))
    ends = [fit_law(runs, "dcpt", {"starts": starts}).quality["domain"].huber for starts in (1, 8)]
    assert ends[1] <= ends[0] * (1 + 1e-9)


@example([0.0, 0.0, 0.0, 0.0, -1.0, 1.0, 0.0, 0.0, 0.0], 0.9999890477049584, 0.0, -3.0)
@settings(max_examples=60)
@given(
    logs=st.lists(st.floats(-2, 1), min_size=9, max_size=9),
    share=st.floats(0, 1),
    n=st.floats(-3, 3),
    d=st.floats(-3, 3),
)
def test_losses_fall_with_size_and_tokens_and_the_derivatives_are_true(
    logs: list[float], share: float, n: float, d: float
) -> None:
    """For any constants that a fit can end at."""
    x, at = np.array(logs), np.array([share])
    value, slopes = _curve(x, np.array([n]), np.array([d]), at)
    assert _curve(x, np.array([n + 0.1]), np.array([d]), at)[0] < value
    assert _curve(x, np.array([n]), np.array([d + 0.1]), at)[0] <= value  # equal where the share is 0
    for i in range(9):
        step = np.zeros(9)
        step[i] = 1e-6
        ahead, behind = (_curve(x + s, np.array([n]), np.array([d]), at)[0][0] for s in (step, -step))
        rounding = 4 * np.finfo(float).eps * value[0] / 2e-6  # of a difference of two values of that size
        assert slopes[0, i] == pytest.approx((ahead - behind) / 2e-6, rel=1e-4, abs=1e-6 + rounding)


def test_a_fit_falls_with_size_and_tokens_over_the_fitted_range() -> None:
    constants = fit_law(grid(1e-2, seed=7), "dcpt", {"starts": 3}).constants
    for share in (0.0, 0.3, 1.0):
        sizes = [dcpt().predict(constants, Points.at(n, 5e9, share)) for n in (0.5e9, 1e9, 2e9, 4e9)]
        tokens = [dcpt().predict(constants, Points.at(1e9, d, share)) for d in (1e9, 3e9, 9e9, 20e9)]
        for curve in TRUE:
            assert (np.diff([float(p[curve][0]) for p in sizes]) < 0).all()
            assert (np.diff([float(p[curve][0]) for p in tokens]) <= 0).all()


def test_the_sign_of_the_share_is_found_and_not_assumed() -> None:
    """B r^eta / D^beta rises with the share and C / (r + epsilon)^gamma falls: their sum may turn."""
    fitted = fit_law(grid(), "dcpt", {"starts": 4})
    turns = fitted.over_share["domain"]
    assert fitted.over_share["general"].goes == "rises" and turns.goes == "turns" and turns.turns_at is not None
    at = Points.at(turns.turns_at["parameters"], turns.turns_at["tokens"], np.linspace(0, 1, 201))
    losses = dcpt().predict(TRUE, at)["domain"]
    assert losses[0] < losses[6] > losses[40]  # up with B r^eta, which is steepest at 0, then down
    assert at.share[np.argmax(losses)] == pytest.approx(turns.turns_at["share"], abs=0.011)
    few = grid(tokens=(5, 20))
    kept = few.points.share >= 0.5
    points = Points(few.points.parameters[kept], few.points.tokens[kept], few.points.share[kept])
    upper = Runs(points, {curve: values[kept] for curve, values in few.losses.items()}, {})
    assert fit_law(upper, "dcpt", {"starts": 4}).over_share["domain"].goes == "falls"


def test_a_curve_that_rises_at_one_place_and_falls_at_another_turns() -> None:
    shares, places = np.linspace(0, 1, 4), [(1e9, 1e9), (1e9, 2e9)]
    up, down = np.array([0.1, 0.2, 0.1]), np.array([-0.1, 0.0, -0.3])
    assert _trend([up, up], places, shares).goes == "rises" and _trend([down, down], places, shares).goes == "falls"
    turns = _trend([up, down], places, shares)
    assert turns.goes == "turns" and turns.turns_at == {"parameters": 1e9, "tokens": 2e9, "share": 0.0}
    late = _trend([np.array([0.0, 0.1, -0.1]), up], places, shares)
    assert late.turns_at == {"parameters": 1e9, "tokens": 1e9, "share": shares[2]}


def test_the_huber_loss_is_a_parabola_and_then_a_line() -> None:
    one = np.array([1.0])
    assert huber(one, np.exp(one * 5e-4)) == pytest.approx((5e-4) ** 2 / 2)
    assert huber(one, np.exp(one * 1e-1)) == pytest.approx(1e-3 * (1e-1 - 5e-4))


def test_fewer_runs_than_constants_are_refused() -> None:
    runs = grid(tokens=(1,))
    points = Points(runs.points.parameters[:8], runs.points.tokens[:8], runs.points.share[:8])
    few = Runs(points, {curve: values[:8] for curve, values in runs.losses.items()}, {})
    with pytest.raises(SurgeonError, match="9 constants a curve; runs given: 8"):
        fit_law(few, "dcpt", {})


def test_the_same_training_again_fixes_no_further_constant() -> None:
    whole = grid(1e-3, tokens=(1,))
    again = np.array([0, 1, 2, 3, 4, 5, 6, 7, 7, 7, 0])

    def chosen(rows: np.ndarray) -> Runs:
        points = Points(whole.points.parameters[rows], whole.points.tokens[rows], whole.points.share[rows])
        return Runs(points, {curve: values[rows] for curve, values in whole.losses.items()}, {})

    with pytest.raises(SurgeonError, match="different trainings among the runs: 8"):
        fit_law(chosen(again), "dcpt", {})
    assert fit_law(chosen(np.append(again, 8)), "dcpt", {"starts": 1}).runs == 12

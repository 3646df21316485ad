"""Schedules at the points where the papers say what they are, and what is true of every one of them."""

from __future__ import annotations

import json
import math
import subprocess
import sys
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from surgeon.cli.app import main
from surgeon.errors import UsageError
from surgeon.registry import families, get, members, names

ALL = [*names("schedule"), *(name for family in families("schedule") for name in members("schedule", family))]
WARM = [name for name in ALL if "warmup" in get("schedule", name).options]
SHAPES = ("sqrt", "linear", "cosine", "exponential")


def at(name: str, step: float, total: int = 1000, **options: object) -> float:
    return float(get("schedule", name).call({"step": step, "total": total}, options))


# of every schedule, also of one that is dropped in


@pytest.mark.parametrize("name", ALL)
@pytest.mark.parametrize("total", [1, 2, 10, 1000])
def test_every_schedule_is_a_pure_factor_of_the_peak(name: str, total: int) -> None:
    found = [at(name, step, total) for step in range(1, total + 1)]
    assert all(math.isfinite(f) and 0 <= f <= 1 for f in found)
    assert [at(name, step, total) for step in range(total, 0, -1)] == found[::-1]
    if total > 1:
        assert found[0] > 0, "the first update moves something"


@pytest.mark.parametrize("name", ALL)
def test_every_schedule_has_a_source(name: str) -> None:
    assert get("schedule", name).supplied == ("step", "total")
    assert get("schedule", name).source


def test_every_schedule_is_listed() -> None:
    words = [sys.executable, "-m", "surgeon", "methods", "schedule", "--json"]
    run = subprocess.run(words, capture_output=True, text=True, check=True)
    assert [m["name"] for m in json.loads(run.stdout)["methods"]] == ALL
    assert {"constant", "linear", "rewarm_cosine", "wsd", "infinite", "moderate_decay", "anneal"} <= set(ALL)
    assert "meta:autoregressive" in ALL


@pytest.mark.parametrize("name", WARM)
@pytest.mark.parametrize("warmup", [1001, -0.1, math.nan])
def test_a_warm_up_that_does_not_fit_is_refused(name: str, warmup: float) -> None:
    with pytest.raises(UsageError, match=r"warm-up|warmup=nan is not valid: it is not finite"):
        at(name, 1, 1000, warmup=warmup)


@pytest.mark.parametrize(
    "name", ["linear", "rewarm_cosine", "meta:autoregressive", "wsd", "moderate_decay", "infinite"]
)
@pytest.mark.parametrize(("warmup", "total"), [(1000, 1000), (1, 1)])
def test_a_warm_up_that_leaves_nothing_to_fall_in_is_refused(name: str, warmup: int, total: int) -> None:
    """It would end at the peak, in place of the minimum that is asked for."""
    with pytest.raises(UsageError, match=r"none of the run's|longer than the run") as refused:
        at(name, 1, total, warmup=warmup)
    assert refused.value.hint
    if total > 1:
        assert at(name, total, total, warmup=1) < at(name, 1, total, warmup=1)  # the shortest one


@pytest.mark.parametrize("schedule", ["constant", "wsd:decay=0", "infinite:cooldown=0,anneal=0"])
def test_a_run_that_is_all_warm_up_and_is_to_be_gone_on_with_says_so(
    schedule: str, stories: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    texts = tmp_path / "texts.txt"
    texts.write_text("Once upon a time there was a cat. " * 9)
    for warmup, told in ((2, 1), (1, 0)):
        joint = "," if ":" in schedule else ":"
        words = ["cpt", str(stories), str(tmp_path / f"out{warmup}"), "--data", str(texts), "--tokens", "64"]
        words += ["--seq-len", "16", "--batch-tokens", "32", "--schedule", f"{schedule}{joint}warmup={warmup}"]
        with pytest.raises(SystemExit) as done:
            main(words)
        assert not done.value.code
        assert capsys.readouterr().err.count("the warm-up is as long as the run") == told


@pytest.mark.parametrize("name", [n for n in ALL if "min_ratio" in get("schedule", n).options])
@pytest.mark.parametrize("total", [1, 2, 3, 7, 10, 997, 1000])
@pytest.mark.parametrize("min_ratio", [0.1, 1 / 3, 0.7, 1.0])
def test_the_end_is_the_minimum_to_the_last_bit(name: str, total: int, min_ratio: float) -> None:
    options = {"const_ratio": 1.0} if name == "infinite" else {}
    assert at(name, total, total, min_ratio=min_ratio, **options) == min_ratio
    for wrong in (-0.1, 1.1):
        with pytest.raises(UsageError, match="does not end at"):
            at(name, 1, total, min_ratio=wrong, **options)


@given(
    name=st.sampled_from(["linear", "rewarm_cosine", "wsd", "moderate_decay", "infinite", "meta:autoregressive"]),
    total=st.integers(1, 500),
    warmup=st.floats(0, 0.3),
)
def test_up_and_then_never_up_again(name: str, total: int, warmup: float) -> None:
    found = [at(name, step, total, warmup=warmup) for step in range(1, total + 1)]
    top = found.index(max(found))
    assert top <= math.ceil(warmup * total)
    assert found[: top + 1] == sorted(found[: top + 1]) and found[top:] == sorted(found[top:], reverse=True)


# one by one


def test_rewarm_cosine_at_its_corners() -> None:
    options = {"warmup": 0.1, "min_ratio": 0.1}
    assert at("rewarm_cosine", 0, **options) == 0
    assert at("rewarm_cosine", 50, **options) == 0.5
    assert at("rewarm_cosine", 100, **options) == 1
    assert at("rewarm_cosine", 550, **options) == pytest.approx(0.55, rel=1e-15)
    assert at("rewarm_cosine", 1000, **options) == 0.1
    assert at("rewarm_cosine", 0, warmup=0) == 1  # no warm-up starts at the peak
    assert at("rewarm_cosine", 400, **options) == pytest.approx(0.1 + 0.45 * (1 + math.cos(math.pi / 3)), rel=1e-15)


def test_linear_constant_and_wsd_at_their_corners() -> None:
    linear = [at("linear", s, warmup=0.1, min_ratio=0.2) for s in (0, 100, 550, 1000)]
    assert linear == pytest.approx([0, 1, 0.6, 0.2], rel=1e-15)
    assert [at("constant", s) for s in (0, 500, 1000)] == [1, 1, 1]
    assert at("constant", 5, warmup=10) == 0.5
    wsd = [at("wsd", s, warmup=10, decay=0.2, min_ratio=0.1) for s in (5, 10, 800, 850, 1000)]
    assert wsd == pytest.approx([0.5, 1, 1, 0.1 + 0.9 * 0.5, 0.1], rel=1e-15)


def test_wsd_in_every_shape() -> None:
    """At 1/4 of the decay from 1 to 0.01: by the formulas of Haegele et al. and Hu et al."""
    quarter = {s: at("wsd", 850, warmup=0, decay=200, min_ratio=0.01, shape=s) for s in SHAPES}
    by_hand = {
        "sqrt": 0.505, "linear": 0.7525, "cosine": 0.01 + 0.99 * 0.5 * (1 + math.sqrt(0.5)), "exponential": 0.01**0.25,
    }  # fmt: skip
    assert quarter == pytest.approx(by_hand, rel=1e-14)
    for shape in SHAPES:
        assert [at("wsd", s, decay=0.2, min_ratio=0.01, shape=shape) for s in (800, 1000)] == [1, 0.01]
    # a half-life of one step: 0.5^(s - S), as Hu et al. write it
    assert at("wsd", 997, decay=10, min_ratio=0.5**10, shape="exponential") == pytest.approx(0.5**7, rel=1e-14)
    with pytest.raises(UsageError, match="never comes to 0"):
        at("wsd", 1, shape="exponential")
    with pytest.raises(UsageError, match="longer than the run"):
        at("wsd", 1, warmup=500, decay=0.6)
    assert at("wsd", 1000, warmup=0.1, decay=0) == 1


def test_moderate_decay_is_a_third() -> None:
    """1e-3 of 3e-3 at the end; at a quarter of the decay 3e-3 (1 - 1/2) + 1e-3 / 2."""
    assert 3e-3 * at("moderate_decay", 1000) == pytest.approx(1e-3, rel=1e-15)
    assert 3e-3 * at("moderate_decay", 850) == pytest.approx(2e-3, rel=1e-15)
    assert at("moderate_decay", 800) == 1


INFINITE: dict[str, Any] = {"warmup": 100, "cooldown": 200, "anneal": 300, "const_ratio": 0.55, "min_ratio": 0.1}


@pytest.mark.parametrize("cooldown_shape", ["cosine", "inv_sqrt", "linear"])
def test_infinite_is_continuous_at_each_joint(cooldown_shape: str) -> None:
    options = INFINITE | {"cooldown_shape": cooldown_shape}
    for joint, level in ((100, 1.0), (300, 0.55), (700, 0.55), (1000, 0.1)):
        assert at("infinite", joint, **options) == level
        for beside in (math.nextafter(joint, 0), math.nextafter(joint, 2000)):
            assert abs(at("infinite", beside, **options) - level) < 1e-12


def test_infinite_by_the_formulas() -> None:
    assert at("infinite", 50, **INFINITE) == 0.5
    assert at("infinite", 200, **INFINITE) == pytest.approx((1 + 0.55) / 2, rel=1e-15)
    h = {x: 1 / math.sqrt(1 + 10 * x) - 1 for x in (0.25, 1.0)}
    inv = at("infinite", 150, **INFINITE, cooldown_shape="inv_sqrt")
    assert inv == pytest.approx(1 + (0.55 - 1) / h[1.0] * h[0.25], rel=1e-15)
    third = at("infinite", 800, **INFINITE)
    assert third == pytest.approx(0.55 * math.exp(-100 * math.log(0.55 / 0.1) / 300), rel=1e-14)
    # the authors' defaults, by their code: 1e-3, 1e-4, 1e-5 at 5, 15 to 80, 100 %
    assert [at("infinite", s) for s in (50, 150, 800, 1000)] == [1, 0.1, 0.1, 0.01]
    assert at("infinite", 900) == pytest.approx(1e-4 * math.exp(100 * math.log(0.1) / 200) / 1e-3, rel=1e-14)


def test_the_constant_phase_does_not_know_the_total() -> None:
    open_ended = INFINITE | {"anneal": 0}
    for name, options in (("infinite", open_ended), ("wsd", {"warmup": 100, "decay": 0}), ("constant", {"warmup": 3})):
        runs = [[at(name, step, total, **options) for step in range(1, 401)] for total in (400, 1000, 10**9)]
        assert runs[0] == runs[1] == runs[2]
    # and up to the annealing of a run that has one
    assert [at("infinite", s, 2000, **INFINITE) for s in range(1, 701)] == [
        at("infinite", s, 1000, **INFINITE) for s in range(1, 701)
    ]
    later = [at("infinite", s, warmup=0, cooldown=0) for s in (1, 2, 800)]
    assert later == [0.1, 0.1, 0.1]  # a second stage begins at eta_const exactly


@pytest.mark.parametrize("shape", SHAPES)
def test_anneal_is_the_end_of_the_whole_schedule(shape: str) -> None:
    own = {"start": 700, "min_ratio": 0.1, "shape": shape}
    ends = [(at("wsd", s, decay=300, min_ratio=0.1, shape=shape), at("anneal", s, **own)) for s in range(700, 1001)]
    assert all(one == other for one, other in ends)
    own |= {"start_ratio": 0.55}
    ends = [(at("infinite", s, **INFINITE, shape=shape), at("anneal", s, **own)) for s in range(300, 1001)]
    assert all(one == other for one, other in ends)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"start": 1000}, "does not fit"),
        ({"start": -1}, "does not fit"),
        ({"start_ratio": 0}, "no share"),
        ({"start_ratio": 0.005}, "does not end at"),
    ],
)
def test_an_anneal_that_cannot_be_is_refused(options: dict[str, object], message: str) -> None:
    with pytest.raises(UsageError, match=message):
        at("anneal", 1, **options)


def test_infinite_refuses_what_does_not_fit() -> None:
    for options in ({"anneal": 0.9, "cooldown": 0.2}, {"cooldown": 1001}, {"const_ratio": 0}, {"const_ratio": 1.5}):
        with pytest.raises(UsageError):
            at("infinite", 1, **options)
    at("infinite", 1, warmup=0.1, cooldown=0.2, anneal=0.7)  # 0.1 + 0.2 + 0.7 is not 1 in float64


def test_an_open_infinite_schedule_may_rest_below_the_end_that_an_annealing_would_have() -> None:
    found = [at("infinite", step, anneal=0, const_ratio=0.005) for step in (151, 500, 1000)]
    assert found == [0.005] * 3
    with pytest.raises(UsageError, match="does not end at"):
        at("infinite", 1, anneal=0.2, const_ratio=0.005)


# FoMo-in-Flux, by a public copy of its code: S = 1000, warm-up of 100, stages 1 to 4, cosine and rsqrt
def copied_cosine(stage: int) -> float:
    return 0.5 * (1 + math.cos(math.pi * (stage * 900 + 1) / ((stage + 1) * 900)))


def copied_rsqrt(stage: int) -> float:
    return ((stage + 1) * 100) ** 0.5 / (stage * 1000 + 100) ** 0.5


def test_autoregressive_peaks() -> None:
    peaks = [at("meta:autoregressive", 100, stage=t, min_ratio=0) for t in range(21)]
    assert peaks[:4] == pytest.approx([1, 0.5, 0.25, 0.14644660940672624], rel=1e-15)
    assert peaks[0] == 1 and all(a > b > 0 for a, b in pairwise(peaks))
    for t in range(1, 21):  # one step of the stretched cosine is at most this far
        assert 0 <= peaks[t] - copied_cosine(t) <= math.pi / 2 / ((t + 1) * 900)
    falling = [at("meta:autoregressive", 100, stage=t, min_ratio=0, shape="rsqrt") for t in range(21)]
    assert falling == pytest.approx([copied_rsqrt(t) for t in range(21)], rel=1e-14)
    assert falling[0] == 1 and all(a > b for a, b in pairwise(falling))


def test_autoregressive_within_a_stage() -> None:
    peak = 0.001 + 0.5 * 0.999
    found = [at("meta:autoregressive", s, stage=1) for s in (50, 100, 550, 1000)]
    assert found == pytest.approx([peak / 2, peak, (peak + 0.001) / 2, 0.001], rel=1e-14)
    # the first stage is rewarm_cosine
    assert [at("meta:autoregressive", s) for s in range(1, 1001)] == pytest.approx(
        [at("rewarm_cosine", s, warmup=0.1, min_ratio=0.001) for s in range(1, 1001)], rel=1e-15
    )
    assert at("meta:autoregressive", 400, shape="rsqrt", min_ratio=0) == 0.5
    with pytest.raises(UsageError, match="warm-up"):
        at("meta:autoregressive", 1, shape="rsqrt", warmup=0)
    with pytest.raises(UsageError, match="no stage"):
        at("meta:autoregressive", 1, stage=-1)
    with pytest.raises(UsageError, match="no schedule meta:recovered"):
        at("meta:recovered", 1)

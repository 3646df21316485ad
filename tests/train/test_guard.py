"""A run is stopped when its loss leaves the numbers or runs away, and not before."""

from __future__ import annotations

import json
import math
import random
from pathlib import Path
from typing import Any

import pytest

from surgeon.errors import SurgeonError
from surgeon.train.guard import DECAY, PATIENCE, SETTLED, SHOWN, Document, Guard, named
from surgeon.train.settings import CptSettings


def guard(limit: float | None = None) -> Guard:
    return Guard(CptSettings(model="m", out="o", data=["d"], tokens=1, stop_on_divergence=limit))


def batch() -> list[Document]:
    return [("old", 3), ("new", 5), ("old", 17), ("old", 3)]


def never() -> list[Document]:
    raise AssertionError("documents are asked for only when the run stops")


def stopped_at(watched: Guard, losses: list[float], first: int = 1) -> int | None:
    """The step at which it stops, None where it does not."""
    for step, loss in enumerate(losses, start=first):
        try:
            watched.check(step, loss, 1.0, list, None)
        except SurgeonError as error:
            assert "diverges" in error.problem
            return step
    return None


@pytest.mark.parametrize(("loss", "norm"), [(math.nan, 1.0), (math.inf, 1.0), (1.0, math.inf), (1.0, math.nan)])
def test_what_is_not_finite_stops_at_once(loss: float, norm: float) -> None:
    watched = guard()
    watched.check(1, 2.0, 1.0, never, None)
    before = watched.state()
    with pytest.raises(SurgeonError) as caught:
        watched.check(2, loss, norm, batch, Path("out.run/state/step-00000001.pt"))
    assert f"no longer finite at step 2 (loss {loss}, norm {norm})" in caught.value.problem
    assert caught.value.where == "step 2, a batch of documents old 3, 17; new 5"
    assert caught.value.hint.endswith("the last good state is out.run/state/step-00000001.pt")
    assert watched.state() == before


def test_a_stop_before_anything_was_saved_says_so() -> None:
    with pytest.raises(SurgeonError, match="no state before this step is known to be good"):
        guard().check(1, math.nan, 1.0, batch, None)


def test_documents_are_named_up_to_a_number() -> None:
    many = [("c", i) for i in range(SHOWN + 3)]
    assert named(many).endswith(f"{SHOWN - 1} and 3 more")
    assert named(many[:SHOWN]).endswith(str(SHOWN - 1))
    assert named([]) == "documents unknown"


def test_a_step_up_stops_after_the_patience() -> None:
    """Golden by the rule: after a jump from a to b the mean is b - (b - a) w, w = the share of steps before it.

    With a = 2, b = 4 and a limit of 1 the mean passes 3 when w <= 1/2; the weights before and in all after n and n + k
    steps are DECAY^k - DECAY^(n+k) and 1 - DECAY^(n+k).
    """
    n = 100
    k = next(k for k in range(1, 1000) if 2 * (DECAY**k - DECAY ** (n + k)) / (1 - DECAY ** (n + k)) < 1)
    assert stopped_at(guard(1.0), [2.0] * n + [4.0] * 1000) == n + k + PATIENCE - 1
    assert k == 31


def test_the_refusal_of_a_divergence_says_the_numbers() -> None:
    watched = guard(0.5)
    with pytest.raises(SurgeonError) as caught:
        for step in range(1, 1000):
            watched.check(step, 2.0 if step <= 80 else 9.0, 1.0, batch, None)
    assert "more than 0.5 nats above its lowest (2.0000 at step" in caught.value.problem
    assert f"for {PATIENCE} steps" in caught.value.problem
    assert "documents old 3, 17; new 5" in caught.value.where


def test_what_does_not_stop() -> None:
    noise = random.Random(0)
    falling = [6.0 * 0.99**i + noise.gauss(0, 0.3) for i in range(600)]
    assert stopped_at(guard(0.5), falling) is None
    spikes = [2.0 + (8.0 if i % 40 == 39 else 0.0) for i in range(600)]  # the mean rises by 0.16 a spike, and falls
    assert stopped_at(guard(0.5), spikes) is None
    assert stopped_at(guard(0.5), [9.0] * (SETTLED - 1) + [2.0] * 400) is None
    bump = [2.0] * 100 + [3.0] * 60 + [2.0] * 200  # a warm-up's: above for fewer than PATIENCE steps in a row
    assert stopped_at(guard(0.5), bump) is None


def test_off_by_default() -> None:
    assert CptSettings(model="m", out="o", data=["d"], tokens=1).stop_on_divergence is None
    assert stopped_at(guard(), [2.0] * 100 + [100.0] * 500) is None


def test_a_run_that_goes_on_decides_as_one_that_was_never_broken_off() -> None:
    noise = random.Random(1)
    losses = [2.0 + noise.gauss(0, 0.2) for _ in range(150)] + [4.0 + noise.gauss(0, 0.2) for _ in range(300)]
    whole = guard(1.0)
    stop = stopped_at(whole, losses)
    assert stop is not None
    for cut in (0, 10, SETTLED, 149, 170, stop - 1):
        first, second = guard(1.0), guard(1.0)
        assert stopped_at(first, losses[:cut]) is None
        second.restore(json.loads(json.dumps(first.state(), allow_nan=False)))
        assert stopped_at(second, losses[cut:], first=cut + 1) == stop
        assert second.state() == whole.state(), "bit for bit"


def test_state_is_plain_floats() -> None:
    watched = guard()
    assert all(type(value) is float for value in watched.state().values()) and "lowest" not in watched.state()
    stopped_at(watched, [2.0] * (SETTLED + 1))
    assert all(type(value) is float for value in watched.state().values()) and watched.state()["lowest"] == 2.0


def test_stopping_does_not_decide_the_result() -> None:
    options: dict[str, Any] = {"model": "m", "out": "o", "data": ["d"], "tokens": 1}
    assert CptSettings(**options, stop_on_divergence=0.5).deciding() == CptSettings(**options).deciding()

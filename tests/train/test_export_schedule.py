"""Schedules under transformers' names have the numbers of ours, one update later."""

from __future__ import annotations

from typing import Any

import pytest

from surgeon.errors import UsageError
from surgeon.registry import get
from surgeon.train.trainer_schedule import trainer_schedule

CASES: list[tuple[str, dict[str, Any], str]] = [
    ("constant", {}, "constant"),
    ("constant", {"warmup": 5}, "constant_with_warmup"),
    ("linear", {"warmup": 0.1}, "linear"),
    ("linear", {"warmup": 4, "min_ratio": 0.25}, "polynomial"),
    ("rewarm_cosine", {"warmup": 0.1, "min_ratio": 0.1}, "cosine_with_min_lr"),
    ("rewarm_cosine", {"warmup": 0, "min_ratio": 0.0}, "cosine_with_min_lr"),
    ("wsd", {"warmup": 10, "shape": "sqrt"}, "warmup_stable_decay"),
    ("wsd", {"warmup": 10, "shape": "linear", "decay": 0.5}, "warmup_stable_decay"),
    ("wsd", {"warmup": 0, "shape": "cosine", "min_ratio": 0.2}, "warmup_stable_decay"),
]


@pytest.mark.parametrize(("name", "options", "theirs"), CASES)
def test_the_rates_of_transformers_are_ours(name: str, options: dict[str, Any], theirs: str) -> None:
    """By steps of their scheduler, as their Trainer makes them: the rate of update k is ours of update k - 1."""
    import torch
    from transformers.optimization import get_scheduler

    method, total, lr = get("schedule", name), 50, 3e-4
    bound = method.bind(options)
    found = trainer_schedule(method, bound, lr, total)
    assert found.name == theirs and found.largest_difference < 1e-12
    optimizer = torch.optim.SGD([torch.zeros(1, requires_grad=True)], lr=lr)
    scheduler = get_scheduler(found.name, optimizer, found.warmup, total, found.options)
    for update in range(1, total + 1):
        rate = optimizer.param_groups[0]["lr"]
        if update > 1:
            assert rate == pytest.approx(lr * method.call({"step": update - 1, "total": total}, bound), rel=1e-9)
        optimizer.step()
        scheduler.step()


def test_what_differs_is_measured() -> None:
    """A warm-up of half an update is none there; wsd warms up from its lowest rate there."""
    cosine, wsd = get("schedule", "rewarm_cosine"), get("schedule", "wsd")
    assert 0 < trainer_schedule(cosine, cosine.bind({"warmup": 0.01}), 1e-4, 50).largest_difference < 0.02
    found = trainer_schedule(wsd, wsd.bind({"warmup": 10, "min_ratio": 0.5}), 1e-4, 50)
    assert found.largest_difference == pytest.approx(0.5 * 0.9)  # at update 1: 0.5 + 0.5 / 10 against 1 / 10


def test_a_schedule_without_a_counterpart_is_refused(tmp_path: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "own_schedules.py").write_text(
        'def half(step: int, total: int, *, level: float = 0.5) -> float:\n    """Half."""\n    return level\n'
    )
    monkeypatch.syspath_prepend(str(tmp_path))
    method = get("schedule", "own_schedules:half")
    with pytest.raises(UsageError, match="has no counterpart"):
        trainer_schedule(method, method.bind({}), 1e-4, 50)
    linear = get("schedule", "linear")
    with pytest.raises(UsageError, match="transformers refuse"):
        trainer_schedule(linear, linear.bind({"min_ratio": 1.0}), 1e-4, 50)

"""A run that spoils its weights stops before they are kept as good ones, and names the state that is."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from surgeon.errors import SurgeonError
from surgeon.train import state
from surgeon.train.run import run_cpt
from surgeon.train.settings import CptSettings

SCHEDULE = """
def leap(step, total, *, endless: bool = False):
    \"\"\"A rate that spoils the weights at step 4.\"\"\"
    return 1.0 if step < 4 else float("inf") if endless else 1e38
"""


@pytest.fixture
def options(
    tiny: Callable[..., Path], corpus: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> dict[str, Any]:
    (tmp_path / "leaping.py").write_text(SCHEDULE)
    monkeypatch.syspath_prepend(tmp_path)
    return {
        "model": str(tiny("llama")), "data": [str(corpus)], "tokens": 384, "seq_len": 16, "batch_tokens": 64,
        "lr": 1e-3, "save_every": 1, "device": "cpu", "schedule": "leaping:leap", "out": str(tmp_path / "one"),
    }  # fmt: skip


def test_the_state_of_the_step_that_spoilt_the_weights_is_not_called_good(
    options: dict[str, Any], tmp_path: Path
) -> None:
    """Weights of 1e35 are finite, and so was the loss of the step that made them."""
    with pytest.raises(SurgeonError, match="no longer finite at step 5") as stopped:
        run_cpt(CptSettings(**options))
    good = tmp_path / "one.run" / "state" / "step-00000003.pt"
    assert stopped.value.hint.endswith(f"the last good state is {good}")
    held = state.load(good)
    assert max(float(t.abs().max()) for t in held.parameters.values()) < 1e3
    with pytest.raises(SurgeonError, match="no longer finite at step 5") as stopped:
        run_cpt(CptSettings(**options, resume=True))  # from the spoilt one
    assert stopped.value.hint.endswith(f"the last good state is {good}")


def test_weights_that_are_not_finite_are_not_saved(options: dict[str, Any], tmp_path: Path) -> None:
    """Also after the last step, whose weights no other one looks at."""
    for tokens in (256, 384):
        with pytest.raises(SurgeonError, match="the weights are no longer finite after step 4") as stopped:
            run_cpt(CptSettings(**options | {"option": {"endless": True}, "tokens": tokens}), force=True)
        assert stopped.value.where.startswith("step 4, a batch of documents texts ")
        assert str(state.latest(tmp_path / "one.run")).endswith("step-00000003.pt")
        assert not (tmp_path / "one").exists()


def test_an_evaluation_that_is_not_finite_names_step_documents_and_state(
    options: dict[str, Any], corpus: Path, tmp_path: Path
) -> None:
    spoilt = {"eval": [f"own={corpus}"], "eval_every": 2, "save_every": 2, "option": {"endless": True}}
    with pytest.raises(SurgeonError, match="losses on the texts of --eval are no longer finite after step 4") as at:
        run_cpt(CptSettings(**options | spoilt))
    assert at.value.where.startswith("step 4, a batch of documents texts ")
    assert "no state before this step is known to be good" not in at.value.hint
    assert at.value.hint.endswith("step-00000002.pt")
    assert (tmp_path / "one.run" / "metrics.jsonl").read_text().splitlines()[-1].startswith('{"step": 4, ')


def test_no_more_states_than_asked_for_stay_while_all_goes_well(options: dict[str, Any], tmp_path: Path) -> None:
    run_cpt(CptSettings(**options | {"schedule": "constant", "keep_states": 2, "keep_state": True}))
    assert [p.name for p in state.saved(tmp_path / "one.run")] == ["step-00000005.pt", "step-00000006.pt"]


def test_weights_that_the_stored_type_cannot_hold_are_refused(
    options: dict[str, Any], tiny: Callable[..., Path], tmp_path: Path
) -> None:
    """1e5 is a number in float32, in which the masters are, and infinite in float16."""
    half = tiny("llama", "float16", name="half")
    settings = options | {"model": str(half), "schedule": "constant", "lr": 1e5, "tokens": 64, "weight_decay": 0.0}
    with pytest.raises(SurgeonError, match="which its stored type F16 cannot hold"):
        run_cpt(CptSettings(**settings))
    assert not (tmp_path / "one").exists() and state.latest(tmp_path / "one.run") is not None

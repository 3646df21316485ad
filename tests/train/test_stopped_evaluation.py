"""SIGTERM while a run evaluates: the evaluation is broken off, the step is saved, and --resume makes up for it."""

from __future__ import annotations

import os
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from anneal_runs import forked
from resume_runs import files, options_of

from surgeon.train import evaluations, state
from surgeon.train.log import MetricsLog
from surgeon.train.run import run_cpt
from surgeon.train.settings import CptSettings


@pytest.fixture
def options(
    tiny: Callable[..., Path], corpus: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> dict[str, Any]:
    return options_of(tiny, corpus, tmp_path, monkeypatch) | {"keep_checkpoints": 9}


def _struck(monkeypatch: pytest.MonkeyPatch, evaluation: int) -> list[int]:
    """A signal comes when the scoring of that evaluation (from 0) begins. Gives the batches that were scored after."""
    real, calls, after = evaluations.score, [0], []

    def score(model: Any, items: Any, context: int, between: Callable[[], None]) -> Any:
        if calls[0] == evaluation:
            os.kill(os.getpid(), signal.SIGTERM)
        calls[0] += 1

        def counted() -> None:
            between()
            after.append(calls[0] - 1)

        return real(model, items, context, counted)

    monkeypatch.setattr(evaluations, "score", score)
    return after


@pytest.mark.parametrize(("evaluation", "step"), [(1, 4), (2, 6), (3, 10)])
def test_the_evaluation_is_owed(
    evaluation: int, step: int, options: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Also where a state was due at that step (6) and where the run was done but for it (10)."""
    if step == 6:
        options |= {"eval_every": 3}
    run_cpt(CptSettings(**options, out=str(tmp_path / "whole")))
    with monkeypatch.context() as patch:
        scored = _struck(patch, evaluation)
        with pytest.raises(KeyboardInterrupt, match=f"stopped after step {step}: the state is saved"):
            run_cpt(CptSettings(**options, out=str(tmp_path / "one")))
    assert evaluation - 1 in scored and evaluation not in scored
    run_dir, whole = tmp_path / "one.run", tmp_path / "whole.run" / "checkpoints"
    newest = state.latest(run_dir)
    assert newest is not None and not (tmp_path / "one").exists()
    held = state.load(newest)
    assert (held.step, held.held["step"]) == (step, step)
    assert [line["step"] for line in MetricsLog.read(run_dir / "metrics.jsonl")] == list(range(step))
    run_cpt(CptSettings(**options, out=str(tmp_path / "one"), resume=True))
    assert files(tmp_path / "one") == files(tmp_path / "whole")
    there = {p.name for p in (run_dir / "checkpoints").iterdir()}
    assert there == {p.name for p in whole.iterdir()}
    for path in whole.iterdir():
        other = run_dir / "checkpoints" / path.name
        assert (other / "surgeon.json").read_bytes() == (path / "surgeon.json").read_bytes()


def test_a_stop_in_the_first_evaluation(
    options: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Nothing was trained: there is nothing to save."""
    with monkeypatch.context() as patch:
        assert not _struck(patch, 0)
        with pytest.raises(KeyboardInterrupt):
            run_cpt(CptSettings(**options, out=str(tmp_path / "one")))
    assert state.latest(tmp_path / "one.run") is None
    run_cpt(CptSettings(**options, out=str(tmp_path / "one"), resume=True))
    run_cpt(CptSettings(**options, out=str(tmp_path / "whole")))
    assert files(tmp_path / "one") == files(tmp_path / "whole")


def test_it_is_owed_until_it_is_done(options: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Broken off twice."""
    with monkeypatch.context() as patch:
        _struck(patch, 1)
        with pytest.raises(KeyboardInterrupt):
            run_cpt(CptSettings(**options, out=str(tmp_path / "one")))
        _struck(patch, 0)
        with pytest.raises(KeyboardInterrupt, match="after step 4"):
            run_cpt(CptSettings(**options, out=str(tmp_path / "one"), resume=True))
    run_cpt(CptSettings(**options, out=str(tmp_path / "one"), resume=True))
    run_cpt(CptSettings(**options, out=str(tmp_path / "whole")))
    assert files(tmp_path / "one") == files(tmp_path / "whole")


def test_a_fork_owes_it_too(options: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    options |= {"schedule": "constant", "objective": "next_token", "keep_checkpoints": None, "save_every": 1}
    given = {"at": 4, "model": options["model"], "eval": list(options["eval"]), "eval_every": 4}
    run_cpt(CptSettings(**options, out=str(tmp_path / "whole"), keep_states=99, keep_state=True))
    known, wanted = forked(options, tmp_path / "whole", "wanted", **given)
    with monkeypatch.context() as patch:
        _struck(patch, 1)
        with pytest.raises(KeyboardInterrupt, match="after step 4"):
            run_cpt(CptSettings(**options, out=str(tmp_path / "one")))
    result, out = forked(options, tmp_path / "one", "annealed", **given)
    assert result.eval == known.eval and [e["step"] for e in result.eval] == [0, 4, 8]
    assert (out / "model.safetensors").read_bytes() == (wanted / "model.safetensors").read_bytes()
    lines, others = (next((path / "surgeon").glob("metrics-*.jsonl")).read_text() for path in (out, wanted))
    assert [x.split(",")[0] for x in lines.splitlines()] == [
        '{"step": 4',
        *(x.split(",")[0] for x in others.splitlines()),
    ]

"""Runs with a length curriculum: same tokens a step, same bytes when resumed, and what it does not go with."""

from __future__ import annotations

import json
import os
import shutil
import signal
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import warm
from resume_runs import PROGRAM, files, options_of

from surgeon.errors import SurgeonError, UsageError
from surgeon.train.anneal import AnnealSettings, forked_settings
from surgeon.train.describe import describe_cpt
from surgeon.train.export_run import run_export
from surgeon.train.export_settings import ExportSettings
from surgeon.train.flops import flops_per_token
from surgeon.train.job import prepare
from surgeon.train.run import run_cpt
from surgeon.train.settings import CptSettings

ENDS = {8: 3, 16: 7, 32: 10}  # the last steps of the stages below


@pytest.fixture
def options(
    tiny: Callable[..., Path], corpus: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> dict[str, Any]:
    found = options_of(tiny, corpus, tmp_path, monkeypatch) | {"lengths": "8:0.3,16:0.4,32:0.3", "save_every": 1}
    return {k: v for k, v in found.items() if k != "seq_len"}


def test_the_steps_of_a_run(options: dict[str, Any], tmp_path: Path) -> None:
    """Ten steps of 64 tokens, and as many tokens in every forward pass."""
    job = prepare(CptSettings(**options, out=str(tmp_path / "one")))
    assert {span.seq_len: span.stop for span in job.shape.spans} == ENDS
    assert [(s.rows, s.micro_batch) for s in job.shape.spans] == [(8, 8), (4, 4), (2, 2)]
    batches = [job.data.mixture.batch(step) for step in range(10)]
    assert [{len(w.ids) for w in b} for b in batches] == [{8}] * 3 + [{16}] * 4 + [{32}] * 3
    assert {sum(w.num_tokens for w in b) for b in batches} == {64}


def test_a_dry_run_says_the_stages(options: dict[str, Any], tmp_path: Path) -> None:
    settings = CptSettings(**options, out=str(tmp_path / "one"))
    found, job = describe_cpt(settings), prepare(settings, dry=True)
    assert found["lengths"] == [
        {"seq_len": 8, "rows": 8, "micro_batch": 8, "until_step": 3},
        {"seq_len": 16, "rows": 4, "micro_batch": 4, "until_step": 7},
        {"seq_len": 32, "rows": 2, "micro_batch": 2, "until_step": 10},
    ]
    assert (found["steps"], found["tokens"], found["seq_len"]) == (10, 640, 32)
    assert sum(d["trained_tokens"] for d in found["data"]) == 640
    by_length = [flops_per_token(job.model, job.trainable, n) for n in (8, 16, 32)]
    mean = (3 * by_length[0] + 4 * by_length[1] + 3 * by_length[2]) / 10
    assert found["flops_per_token"] == pytest.approx(mean, rel=1e-12)
    assert "lengths" not in describe_cpt(settings.model_copy(update={"lengths": None, "seq_len": 32}))


def test_resumed_around_the_boundaries_is_the_same_bytes(options: dict[str, Any], tmp_path: Path) -> None:
    """Before, at and behind the end of the first stage, and at the end of the second."""
    whole = tmp_path / "whole"
    run_cpt(CptSettings(**options, out=str(whole), keep_state=True, keep_states=99))
    for step in (2, 3, 4, 7):
        again = tmp_path / f"again{step}"
        shutil.copytree(tmp_path / "whole.run", tmp_path / f"again{step}.run")
        for path in (tmp_path / f"again{step}.run" / "state").iterdir():
            if int(path.stem.removeprefix("step-")) > step:
                path.unlink()
        run_cpt(CptSettings(**options, out=str(again), resume=True))
        assert files(again) == files(whole)


def test_shares_that_change_go_on_in_longer_rows(options: dict[str, Any], tmp_path: Path) -> None:
    """640 tokens: the shares change behind 9 rows of the longest, in the middle of a step of the second length."""
    mixed = options | {"mixture": ["0.45:texts=1,old=0", "1:texts=1,old=3"], "replay_ratio": None}
    job = prepare(CptSettings(**mixed, out=str(tmp_path / "one")), dry=True)
    read = {"texts": 0, "old": 0}
    for step in range(10):
        names = [held["corpus"] for held in job.data.mixture.documents_of(step)]
        for name, window in zip(names, job.data.mixture.batch(step), strict=True):
            read[name] += len(window.ids)
            total = sum(read.values())
            due = min(total, 288) + max(0, total - 288) / 4
            assert abs(read["texts"] - due) < len(window.ids)
    assert job.data.mixture.tokens(10) == [read["texts"], read["old"]] and sum(read.values()) == 640
    run_cpt(CptSettings(**mixed, out=str(tmp_path / "whole"), keep_state=True, keep_states=99))
    for step in (3, 4, 5, 7):
        shutil.copytree(tmp_path / "whole.run", tmp_path / f"again{step}.run")
        for path in (tmp_path / f"again{step}.run" / "state").iterdir():
            if int(path.stem.removeprefix("step-")) > step:
                path.unlink()
        run_cpt(CptSettings(**mixed, out=str(tmp_path / f"again{step}"), resume=True))
        assert files(tmp_path / f"again{step}") == files(tmp_path / "whole")


def test_killed_behind_a_boundary_is_the_same_bytes(options: dict[str, Any], tmp_path: Path) -> None:
    """One forward pass a step: call 5 is in step 5 (the second of the second stage), and evaluations have none."""
    run_cpt(CptSettings(**options, out=str(tmp_path / "whole")))
    out = tmp_path / "killed"
    environment = os.environ | {"DIE_AT": "5", "PYTHONPATH": os.pathsep.join([str(tmp_path), *sys.path])}
    words = ["-c", PROGRAM, json.dumps(options | {"out": str(out)})]
    dead = warm.run(words, env=environment)
    assert dead.returncode == -signal.SIGKILL, dead.stderr
    held = sorted(p.name for p in (tmp_path / "killed.run" / "state").iterdir())
    assert held == ["step-00000003.pt", "step-00000004.pt"]  # no step has shown yet that the newer one is good
    with pytest.raises(SurgeonError, match="lengths"):
        run_cpt(CptSettings(**options | {"lengths": "16:0.7,32:0.3"}, out=str(out), resume=True))
    run_cpt(CptSettings(**options, out=str(out), resume=True))
    assert files(out) == files(tmp_path / "whole")


def test_one_stage_is_the_plain_run(options: dict[str, Any], tmp_path: Path) -> None:
    run_cpt(CptSettings(**options | {"lengths": "32"}, out=str(tmp_path / "one")))
    run_cpt(CptSettings(**options | {"lengths": None, "seq_len": 32}, out=str(tmp_path / "two")))
    one, two = files(tmp_path / "one"), files(tmp_path / "two")
    settings = ("surgeon.json", "README.md")
    assert {k: v for k, v in one.items() if k not in settings} == {k: v for k, v in two.items() if k not in settings}


def test_a_probe_at_a_boundary_reads_rows_of_one_length(options: dict[str, Any], tmp_path: Path) -> None:
    changes = {"objective": "next_token", "meta": ["alignment:every=1,rows=3"]}
    result = run_cpt(CptSettings(**options | changes, out=str(tmp_path / "one")))
    assert result.steps == 10


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"batch_ramp": "32:0.5"}, "does not go with --batch-ramp"),
        ({"packing": "whole"}, "does not go with documents that are kept whole"),
        ({"seq_len": 16}, "rows of 16 tokens beside lengths that end at 32"),
        ({"lengths": "8:0.01,32:0.99"}, "has no step"),
        ({"lengths": "8,32", "batch_tokens": 16}, "does not hold one row of 32"),
        ({"lengths": "8,4k", "batch_tokens": "8k"}, "longer than the model's context"),
    ],
)
def test_what_is_refused(options: dict[str, Any], tmp_path: Path, changes: dict[str, Any], words: str) -> None:
    with pytest.raises(UsageError, match=words):
        prepare(CptSettings(**options | changes, out=str(tmp_path / "one")), dry=True)


def test_a_step_that_is_no_whole_number_of_shorter_rows_is_refused(options: dict[str, Any], tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="a step of 56 tokens is no whole number of rows of 16") as refused:
        prepare(CptSettings(**options | {"lengths": "16,28"}, out=str(tmp_path / "one")), dry=True)
    assert "112" in refused.value.hint


def test_a_fork_and_other_trainers_refuse_it(options: dict[str, Any], tmp_path: Path) -> None:
    run_cpt(CptSettings(**options, out=str(tmp_path / "one"), keep_state=True))
    given = {"data": list(options["data"]), "replay": list(options["replay"]), "tokens": 64}
    with pytest.raises(UsageError, match="--lengths depend on how long it is"):
        forked_settings(AnnealSettings(run=str(tmp_path / "one"), out=str(tmp_path / "two"), **given))
    for name in ("axolotl", "llamafactory"):
        plain = {"objective": "next_token", "regularize": []}
        with pytest.raises(UsageError, match="--lengths has no counterpart"):
            run_export(ExportSettings(**options | plain, to=name, out=str(tmp_path / name)))


def test_the_longest_length_may_be_said_twice(options: dict[str, Any], tmp_path: Path) -> None:
    assert prepare(CptSettings(**options, seq_len=32, out=str(tmp_path / "one")), dry=True).shape.seq_len == 32


def test_instruction_records_are_refused(options: dict[str, Any], tmp_path: Path, questions: Path) -> None:
    with pytest.raises(UsageError, match="kept whole") as refused:
        prepare(CptSettings(**options | {"data": [str(questions)]}, out=str(tmp_path / "one")), dry=True)
    assert "--packing split" in refused.value.hint

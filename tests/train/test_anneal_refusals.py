"""cpt anneal: what is found of a run that is left early, and what is no fork of it."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from anneal_runs import WEIGHTS, constant_run, forked, run_options, tree

from surgeon.errors import SurgeonError, UsageError
from surgeon.train import state
from surgeon.train.fork import find_fork
from surgeon.train.run import run_cpt
from surgeon.train.settings import CptSettings


@pytest.fixture
def options(tiny: Callable[..., Path], corpus: Path) -> dict[str, Any]:
    """Of a model in bfloat16 files with dropout."""
    return run_options(tiny("llama", "bfloat16", tie_word_embeddings=True, attention_dropout=0.1), corpus)


@pytest.fixture
def constant(options: dict[str, Any], tmp_path: Path) -> Path:
    return constant_run(options, tmp_path / "constant")


def test_what_is_found_of_a_run(options: dict[str, Any], constant: Path, tmp_path: Path) -> None:
    run_dir = constant.with_name("constant.run")
    newest = find_fork(constant)
    assert newest.step == 6 and newest.state == run_dir / "state" / "step-00000006.pt"
    assert find_fork(run_dir).state == newest.state
    assert find_fork(run_dir / "checkpoints" / "step-00000002").checkpoint == run_dir / "checkpoints" / "step-00000002"
    # what a checkpoint says of the run is what the run wrote down, but for the weights of the corpora
    state.clear(run_dir)
    told = find_fork(constant)
    assert (told.step, told.state, told.checkpoint) == (6, None, run_dir / "checkpoints" / "step-00000006")
    assert {k: v for k, v in told.record.items() if k not in ("data", "replay")} == {
        k: v for k, v in newest.record.items() if k not in ("data", "replay")
    }
    with pytest.raises(SurgeonError, match="step 5 is here") as refused:
        find_fork(constant, 5)
    assert "there are: 2, 4, 6" in refused.value.hint
    with pytest.raises(SurgeonError, match="no run of cpt"):
        find_fork(Path(options["model"]))
    with pytest.raises(SurgeonError, match="no run of cpt"):
        find_fork(tmp_path / "absent")
    shutil.move(constant, tmp_path / "moved")  # an output alone
    assert find_fork(tmp_path / "moved").checkpoint == tmp_path / "moved"


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"replay": []}, "without a replay corpus"),
        ({"data": ["{other}"]}, "these are others: data"),
        ({"data": ["new={corpus}"]}, "these are others: data"),
        ({"replay": ["old={corpus}:3"]}, "these are others: replay"),
        ({"at": 5}, "neither a state nor a checkpoint of step 5"),
        ({"min_ratio": 1.0}, "not above the end"),
        ({"min_ratio": 0.0}, "--schedule-shape"),
        ({"out": "constant"}, "exists already|is an input"),
        ({"out": "constant/new"}, "lies inside an input"),
    ],
)
def test_a_fork_that_is_none_is_refused(
    options: dict[str, Any], constant: Path, corpus: Path, changes: dict[str, Any], message: str
) -> None:
    other = corpus.with_name("other.jsonl")
    other.write_text(corpus.read_text() + '{"text": "One more."}\n')
    filled = {
        k: [x.format(other=f"texts={other}", corpus=corpus) for x in v] if isinstance(v, list) else v
        for k, v in changes.items()
    }
    if "out" in filled:
        filled["out"] = str(constant.parent / filled["out"])
    before = tree(constant.parent)
    with pytest.raises((SurgeonError, UsageError), match=message):
        forked(options, constant, "new", **filled)
    assert tree(constant.parent) == before


def test_a_rate_that_still_rises_is_refused(options: dict[str, Any], tmp_path: Path) -> None:
    settings = options | {"tokens": 6 * 64, "schedule": "constant", "option": {"warmup": 5}}
    run_cpt(CptSettings(**settings, out=str(tmp_path / "run"), save_every=2, keep_checkpoints=9))
    with pytest.raises(UsageError, match="still warming up"):
        forked(options, tmp_path / "run", "new", at=2)


def test_shares_that_hang_on_the_length_are_refused(options: dict[str, Any], tmp_path: Path) -> None:
    settings = options | {"tokens": 6 * 64, "schedule": "constant", "sampling": "unimax:max_epochs=100"}
    run_cpt(CptSettings(**settings, out=str(tmp_path / "run"), save_every=2, keep_checkpoints=9))
    with pytest.raises(UsageError, match="the data of a run with --sampling depend on how long it is"):
        forked(options, tmp_path / "run", "new", at=2)


def test_a_state_alone_needs_the_model(options: dict[str, Any], constant: Path, tmp_path: Path) -> None:
    """A run that was broken off, without a checkpoint: settings and a state."""
    shutil.rmtree(constant)
    shutil.rmtree(constant.with_name("constant.run") / "checkpoints")
    with pytest.raises(SurgeonError, match="does not say where") as refused:
        forked(options, constant, "new")
    assert "--model" in refused.value.hint
    other = tmp_path / "other"
    shutil.copytree(options["model"], other)
    forked(options, constant, "new", model=str(other))  # the same bytes elsewhere
    shutil.rmtree(tmp_path / "new")
    torch.manual_seed(1)
    from safetensors.torch import load_file, save_file

    changed = {n: t + 1 for n, t in load_file(other / WEIGHTS).items()}
    save_file(changed, other / WEIGHTS, metadata={"format": "pt"})
    with pytest.raises(SurgeonError, match="these are others: model"):
        forked(options, constant, "new", model=str(other))

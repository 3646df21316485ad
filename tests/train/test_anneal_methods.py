"""cpt anneal of runs whose methods read corpora by themselves, learn from another model, or keep something."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from anneal_runs import WEIGHTS, constant_run, forked, run_options, tree

from surgeon.errors import SurgeonError
from surgeon.train import state
from surgeon.train.anneal import AnnealSettings, anneal, describe_anneal
from surgeon.train.run import run_cpt
from surgeon.train.settings import CptSettings


@pytest.fixture
def options(tiny: Callable[..., Path], corpus: Path) -> dict[str, Any]:
    return run_options(tiny("llama", tie_word_embeddings=True), corpus)


def _told_beforehand(options: dict[str, Any], out: Path) -> bytes:
    """The weights of one run of ten steps that falls from the sixth on."""
    fall = {"schedule.warmup": 2, "schedule.decay": 4, "schedule.min_ratio": 0.01, "schedule.shape": "exponential"}
    settings = options | {"tokens": 10 * 64, "schedule": "wsd", "option": options["option"] | fall}
    run_cpt(CptSettings(**settings, out=str(out)))
    return (out / WEIGHTS).read_bytes()


def test_corpora_that_methods_read_are_given_again(options: dict[str, Any], corpus: Path, tmp_path: Path) -> None:
    """By whatever path: a run writes down their digests alone."""
    probe, moved = tmp_path / "probe.jsonl", tmp_path / "moved" / "else.jsonl"
    probe.write_text(corpus.read_text() + '{"text": "One more."}\n')
    options |= {
        "regularize": (f"ewc:probe={probe},tokens=60,strength=3",),
        "meta": ("decoupled:every=2,batches=1,rows=2",), "option": {"meta.probe": f"some={corpus}"},
    }  # fmt: skip
    run = constant_run(options, tmp_path / "run")
    wanted = _told_beforehand(options, tmp_path / "wanted")
    moved.parent.mkdir()
    shutil.move(probe, moved)
    before = tree(run, tmp_path / "run.run")
    with pytest.raises(SurgeonError, match="2 of 2 is not given") as refused:
        forked(options, run, "new")
    assert "--probe" in refused.value.hint
    with pytest.raises(SurgeonError, match="1 of 2 is not given"):
        forked(options, run, "new", probe=[str(corpus)])
    odd = tmp_path / "odd.jsonl"
    odd.write_text('{"text": "Another one."}\n')
    with pytest.raises(SurgeonError, match=r"no corpus with the bytes of .*odd\.jsonl"):
        forked(options, run, "new", probe=[str(corpus), str(moved), str(odd)])
    _, out = forked(options, run, "new", probe=[str(corpus), str(moved)])
    assert (out / WEIGHTS).read_bytes() == wanted
    assert tree(run, tmp_path / "run.run") == before


def test_the_teacher_is_given_again(options: dict[str, Any], tiny: Callable[..., Path], tmp_path: Path) -> None:
    teacher = tmp_path / "teacher"
    shutil.copytree(options["model"], teacher)
    run_cpt(CptSettings(**options, tokens=64, out=str(tmp_path / "other")))
    options |= {"objective": "distill", "teacher": str(tmp_path / "other")}
    run = constant_run(options, tmp_path / "run")
    with pytest.raises(SurgeonError, match="learned from a model of --teacher") as refused:
        forked(options, run, "new")
    assert "--teacher" in refused.value.hint
    with pytest.raises(SurgeonError, match="these are others: teacher"):
        forked(options, run, "new", teacher=str(teacher))
    _, out = forked(options, run, "new", teacher=options["teacher"])
    assert (out / WEIGHTS).read_bytes() == _told_beforehand(options, tmp_path / "wanted")
    plain = constant_run(options | {"objective": "next_token", "teacher": None}, tmp_path / "plain")
    with pytest.raises(SurgeonError, match="had no teacher"):
        forked(options, plain, "new2", teacher=str(teacher))


@pytest.mark.parametrize(
    ("changes", "name"),
    [
        ({"meta": ("reptile:every=2",)}, "reptile"),
        ({"objective": "compatible_teacher"}, "compatible_teacher"),
        ({"optimizer": "osf:keep_ratio=0.5"}, "osf"),
        ({"optimizer": "coso:rank=2,sketch=4"}, "coso"),
    ],
)
def test_a_checkpoint_without_what_a_method_keeps_is_refused(
    changes: dict[str, Any], name: str, options: dict[str, Any], tmp_path: Path
) -> None:
    """And the state, which holds it, is not."""
    options |= changes
    run = constant_run(options, tmp_path / "run")
    _, out = forked(options, run, "from_state")
    assert (out / WEIGHTS).read_bytes() == _told_beforehand(options, tmp_path / "wanted")
    state.clear(tmp_path / "run.run")
    before = tree(tmp_path)
    settings = AnnealSettings(
        run=str(run), out=str(tmp_path / "new"), tokens=4 * 64, data=options["data"], replay=options["replay"]
    )
    for way in (anneal, describe_anneal):
        with pytest.raises(SurgeonError, match=f"{name} keeps something") as refused:
            way(settings)
        assert "--keep-state" in refused.value.hint
    assert tree(tmp_path) == before and not (tmp_path / "new.run").exists()


def test_a_checkpoint_of_a_run_with_a_method_that_keeps_nothing(options: dict[str, Any], tmp_path: Path) -> None:
    options |= {"meta": ("proximal_l2", "alignment:every=2")}
    run = constant_run(options, tmp_path / "run")
    state.clear(tmp_path / "run.run")
    result, out = forked(options, run, "new")
    assert result.found["fork"]["optimizer"] == "begun anew"
    lines = next((out / "surgeon").glob("metrics-*.jsonl")).read_text().splitlines()
    assert [json.loads(line)["step"] for line in lines] == [7, 8, 9, 10]

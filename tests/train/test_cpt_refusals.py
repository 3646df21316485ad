"""Every mistake gets its three lines, and leaves nothing at the output."""

from __future__ import annotations

import json
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pydantic
import pytest

from surgeon.errors import SurgeonError
from surgeon.train.run import run_cpt
from surgeon.train.settings import CptSettings

CASES: list[tuple[dict[str, Any], str]] = [
    ({"train": "new-blocks"}, "no new blocks"),
    ({"train": "new-rows"}, "no new rows"),
    ({"train": "adapter"}, "adapter"),
    ({"train": "layers[.9"}, "regular expression"),
    ({"train": "decoder"}, "no tensor's name matches"),
    ({"seq_len": 65}, "longer than the model's context"),
    ({"batch_tokens": 15}, "does not hold one row"),
    ({"option": {"warmpu": 0.1}}, "no method of this run has the option"),
    ({"option": {"warmup": 2000}}, "does not fit into a run"),
    ({"schedule": "cosin"}, "no schedule"),
    ({"objective": "nowhere:function"}, "cannot be imported"),
    ({"replay_ratio": 0.5}, "without a replay corpus"),
    ({"device": "cuda"}, "CUDA"),
    ({"eval": ("a={corpus}", "a={corpus}")}, "two eval corpora"),
    ({"replay": ("texts={corpus}",)}, "two corpora are called"),
]


@pytest.mark.parametrize(("changes", "problem"), CASES, ids=[p for _, p in CASES])
def test_wrong_settings(tiny: Callable[..., Path], corpus: Path, changes: dict[str, Any], problem: str) -> None:
    import torch

    if changes.get("device") == "cuda" and torch.cuda.is_available():
        pytest.skip("a GPU is there")
    for key in ("eval", "replay"):
        if key in changes:
            changes = {key: tuple(t.format(corpus=corpus) for t in changes[key])}
    out = corpus.parent / "out"
    options: dict[str, Any] = {"tokens": 64, "seq_len": 16, "batch_tokens": 64}
    with pytest.raises(SurgeonError, match=problem):
        run_cpt(CptSettings(model=str(tiny("llama")), out=str(out), data=(str(corpus),), **(options | changes)))
    assert not out.exists()


EARLY: list[tuple[dict[str, Any], str]] = [
    ({"lengths": "8:0.5,often:0.5"}, "not a list of lengths"),
    ({"lengths": "8:0.5,16:0.4"}, "do not add up to 1"),
    ({"lengths": "8,16", "batch_ramp": "32:0.5"}, "does not go with --batch-ramp"),
    ({"batch_ramp": "32:soon"}, "no stage of a ramp"),
    ({"mixture": ["often:a=1"]}, "no end of a stage"),
    ({"mixture": ["1:b=1"]}, "no corpus 'b'"),
    ({"order": "rising"}, "not an order"),
    ({"group": ["head:speed=2"]}, "is not REGEX"),
    ({"data": ["a={corpus}:1", "b={corpus}"]}, "some corpora have a weight"),
    ({"data": ["a={corpus}"], "replay": ["b={corpus}:1", "c={corpus}"]}, "some corpora have a weight"),
    ({"data": ["absent.jsonl"]}, "no such corpus"),
    ({"data": ["{folder}"]}, "holds no corpus file"),
    ({"eval": ["absent.jsonl"]}, "no such corpus"),
    ({"eval": ["a={corpus}", "a={corpus}"]}, "two eval corpora"),
    ({"replay_ratio": 0.5}, "without a replay corpus"),
    ({"betas": (1.0, 0.9)}, "beta1 is 1"),
    ({"betas": (0.9, -0.1)}, "beta2 is -0.1"),
]


@pytest.mark.parametrize(("changes", "problem"), EARLY, ids=[f"{p} {n}" for n, (_, p) in enumerate(EARLY)])
def test_words_are_read_before_the_model(corpus: Path, changes: dict[str, Any], problem: str) -> None:
    """The model is not there: what is refused first is the word."""
    folder = corpus.parent / "empty"
    folder.mkdir()
    put = {"corpus": corpus, "folder": folder}
    changes = {k: [t.format(**put) for t in v] if isinstance(v, list) else v for k, v in changes.items()}
    settings = {"model": "absent", "out": str(corpus.parent / "out"), "data": [f"a={corpus}"], "tokens": 64}
    with pytest.raises(SurgeonError, match=problem):
        run_cpt(CptSettings(**(settings | changes)))


@pytest.mark.parametrize(
    "changes",
    [{"tokens": 0}, {"tokens": "many"}, {"lr": -1}, {"replay_ratio": 1.0}, {"steps": 3}, {"weight_decay": math.inf}],
)
def test_settings_are_strict(changes: dict[str, Any]) -> None:
    with pytest.raises(pydantic.ValidationError):
        CptSettings(**({"model": "m", "out": "o", "data": ("d",), "tokens": 1} | changes))


def test_options_of_two_methods_with_one_name_need_their_kind(corpus: Path) -> None:
    from surgeon.train.settings import methods

    settings = CptSettings(model="m", out="o", data=("d",), tokens=1, option={"schedule.min_ratio": "0.5"})
    assert methods(settings)["schedule"][0][1]["min_ratio"] == 0.5


def test_a_model_whose_tokenizer_is_larger_is_refused(tiny: Callable[..., Path], corpus: Path) -> None:
    model = tiny("llama", vocab_size=300)
    with pytest.raises(SurgeonError, match="the model has 300 rows"):
        run_cpt(CptSettings(model=str(model), out=str(corpus.parent / "out"), data=(str(corpus),), tokens=64))


def test_a_loss_that_leaves_the_numbers_stops_the_run(tiny: Callable[..., Path], corpus: Path) -> None:
    out = corpus.parent / "out"
    options: dict[str, Any] = {"seq_len": 16, "batch_tokens": 64, "lr": 1e30, "option": {"warmup": 0}, "clip": 0.0}
    with pytest.raises(SurgeonError, match="no longer finite"):
        run_cpt(CptSettings(model=str(tiny("llama")), out=str(out), data=(str(corpus),), tokens=6400, **options))
    assert not out.exists()


def test_a_step_that_has_nothing_to_learn_is_refused(tiny: Callable[..., Path], tmp_path: Path) -> None:
    """Its loss would be 0 of nothing, and momentum would move the model: the answer lies beyond its rows."""
    records = tmp_path / "records.jsonl"
    lines = [{"instruction": "Once upon a time. " * 40, "output": "The end."}, {"instruction": "Go", "output": "On"}]
    records.write_text("".join(json.dumps(line) + "\n" for line in lines))
    options: dict[str, Any] = {"tokens": 160, "seq_len": 16, "batch_tokens": 16, "packing": "split"}
    options |= {"model": str(tiny("llama")), "data": (str(records),)}
    with pytest.raises(SurgeonError, match=r"step \d+ has nothing to learn") as refused:
        run_cpt(CptSettings(**options, out=str(tmp_path / "out")))
    assert "documents records 0" in refused.value.where
    assert not (tmp_path / "out").exists()
    run_cpt(CptSettings(**options, out=str(tmp_path / "all"), loss_on="all"))


def test_force_does_not_replace_what_is_read(tiny: Callable[..., Path], corpus: Path, tmp_path: Path) -> None:
    import shutil

    model = Path(shutil.copytree(tiny("llama"), tmp_path / "model"))
    before = {p.name: p.read_bytes() for p in model.iterdir()}
    for out, data in ((model, corpus), (tmp_path, corpus), (corpus.parent, corpus)):
        settings = CptSettings(
            model=str(model), out=str(out), data=[str(data)], tokens=64, seq_len=16, batch_tokens=64
        )
        with pytest.raises(SurgeonError, match=r"input|corpus"):
            run_cpt(settings, force=True)
    assert {p.name: p.read_bytes() for p in model.iterdir()} == before and corpus.is_file()

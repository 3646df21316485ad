"""What is wrong with an extension is said before anything is learned or trained."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest

from surgeon.errors import SurgeonError
from surgeon.vocab.plan import plan_extend_vocab
from surgeon.vocab.settings import ExtendVocabSettings


@pytest.fixture
def corpus(tmp_path: Path) -> str:
    path = tmp_path / "seen.txt"
    path.write_text("The patient was given aspirin, and the patient was well. " * 6, encoding="utf-8")
    return str(path)


def test_what_can_be_refused_at_once_is_not_learned_or_trained_first(
    stories: Path, tmp_path: Path, corpus: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    empty, short = tmp_path / "empty.jsonl", tmp_path / "short.txt"
    empty.write_text("")
    short.write_text("a")

    def begun(*_: Any, **__: Any) -> Any:
        raise AssertionError("begun")

    def refused(**options: Any) -> str:
        with pytest.raises(SurgeonError) as error:
            plan_extend_vocab(
                ExtendVocabSettings(model=str(stories), out=tmp_path / "out", add=5, corpus=[corpus], **options)
            )
        return error.value.problem

    monkeypatch.setattr("surgeon.vocab.inits.distill_hull.distill", begun)
    assert "the probe is too short" in refused(probe=[str(short)])
    monkeypatch.setattr("surgeon.vocab.learn.learn", begun)
    assert "there is one init" in refused(init="mean", init_output="convex_hull")
    assert "only convex rows" in refused(init="gaussian", probe=[str(short)], old_loss_budget=0.1)
    assert "no text" in refused(init="mean", probe=[str(empty)])
    assert "no such folder" in refused(init="omp", option={"donor": str(tmp_path / "absent")})
    vectors = {"source_vectors": str(short), "target_vectors": str(tmp_path / "absent.vec")}
    assert "WORDS DIMENSIONS" in refused(init="wechsel", option=vectors)
    (tmp_path / "one.vec").write_text("1 2\na 0.5 0.5\n")
    vectors["source_vectors"] = str(tmp_path / "one.vec")
    assert "cannot be read" in refused(init_output="wechsel", init="mean", untie=True, option_output=vectors)


def test_a_config_of_another_model_is_refused_before_anything_is_read(stories: Path, tmp_path: Path) -> None:
    model = tmp_path / "model"
    shutil.copytree(stories, model)
    config = json.loads((model / "config.json").read_text(encoding="utf-8"))
    (model / "config.json").write_text(json.dumps(config | {"vocab_size": 513}), encoding="utf-8")
    with pytest.raises(SurgeonError, match="says vocab_size 513"):
        plan_extend_vocab(ExtendVocabSettings(model=str(model), out=tmp_path / "out", add=5, corpus=["absent.txt"]))

"""A tokenizer that AutoTokenizer rebuilds as another one is told, and one that it reads as it is written is not."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest

from surgeon.loading import load_tokenizer
from surgeon.progress import Silent
from surgeon.train.reading import reading_note
from surgeon.train.run import run_cpt
from surgeon.train.settings import CptSettings
from surgeon.vocab.probe_texts import HARD_TEXTS


@pytest.fixture
def rebuilt(stories: Path, tmp_path: Path) -> Path:
    """The story model as one whose class has a byte-level tokenizer of its own: qwen2."""
    folder = tmp_path / "model"
    shutil.copytree(stories, folder)
    config = json.loads((folder / "config.json").read_text())
    config |= {"model_type": "qwen2", "architectures": ["Qwen2ForCausalLM"]}
    (folder / "config.json").write_text(json.dumps(config))
    (folder / "tokenizer_config.json").write_text(json.dumps({"tokenizer_class": "Qwen2Tokenizer"}))
    return folder


def test_what_is_read_otherwise_is_counted(rebuilt: Path, stories: Path) -> None:
    from tokenizers import Tokenizer

    assert reading_note(load_tokenizer(stories), stories) == ""
    auto, plain = load_tokenizer(rebuilt), Tokenizer.from_file(str(rebuilt / "tokenizer.json"))
    differ = [
        t
        for t in HARD_TEXTS
        if auto.encode(t, add_special_tokens=False) != plain.encode(t, add_special_tokens=False).ids
    ]
    assert len(differ) > 10
    note = reading_note(auto, rebuilt)
    assert note.startswith(
        f"AutoTokenizer (Qwen2Tokenizer) reads {len(differ)} of {len(HARD_TEXTS)} hard texts otherwise"
    )
    (rebuilt / "tokenizer.json").unlink()
    assert reading_note(auto, rebuilt) == ""


def test_a_run_says_it(tmp_path: Path, stories: Path, corpus: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from surgeon.train import run

    said: list[str] = []

    class Said(Silent):
        def say(self, line: str) -> None:
            said.append(line)

    options: dict[str, Any] = {"tokens": 64, "seq_len": 16, "batch_tokens": 64, "lr": 1e-3, "device": "cpu"}
    settings = CptSettings(model=str(stories), out=str(tmp_path / "a"), data=(str(corpus),), **options)
    run_cpt(settings, Said())
    assert not any("AutoTokenizer" in line for line in said)
    monkeypatch.setattr(run, "reading_note", lambda tokenizer, folder: f"AutoTokenizer of {folder}")
    run_cpt(settings.model_copy(update={"out": str(tmp_path / "b")}), Said())
    assert f"AutoTokenizer of {stories}" in said
    assert not any("no end token" in line for line in said)


def test_a_run_says_that_documents_do_not_end(tmp_path: Path, stories: Path, corpus: Path) -> None:
    said: list[str] = []

    class Said(Silent):
        def say(self, line: str) -> None:
            said.append(line)

    model = tmp_path / "model"
    shutil.copytree(stories, model)
    for name in ("tokenizer_config.json", "special_tokens_map.json"):
        (model / name).unlink(missing_ok=True)
    assert load_tokenizer(model).eos_token is None
    run_cpt(
        CptSettings(
            model=str(model), out=str(tmp_path / "a"), data=[str(corpus)], tokens=64, seq_len=16, batch_tokens=64,
            device="cpu",
        ),
        Said(),
    )  # fmt: skip
    assert any("the tokenizer has no end token" in line for line in said)

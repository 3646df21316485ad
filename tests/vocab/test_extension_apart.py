"""The output of an extension is never put in the place of what it is made from, nor inside a model that is read."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import pytest

from surgeon.errors import SurgeonError
from surgeon.ops.execute import execute
from surgeon.vocab.plan import plan_extend_vocab
from surgeon.vocab.settings import ExtendVocabSettings


def refused(model: Path, out: Path, match: str, **settings: Any) -> None:
    with pytest.raises(SurgeonError, match=match):
        plan_extend_vocab(ExtendVocabSettings(model=str(model), out=out, **settings))


def test_the_model_that_the_tokens_or_rows_are_of_is_left_alone(stories: Path, tmp_path: Path) -> None:
    words, there = tmp_path / "words.txt", tmp_path / "models" / "there"
    words.write_text("marmalade\n", encoding="utf-8")
    execute(plan_extend_vocab(ExtendVocabSettings(model=str(stories), out=there, tokens=words)), there)
    for out, match in (
        (there, "the output is an input"),
        (there / "out", "lies inside an input"),
        (there.parent, "holds an input"),
    ):
        refused(stories, out, match, tokens_of=str(there))
        refused(stories, out, match, tokens_of=str(there), init="mean")
        refused(stories, out, match, tokens=words, init="adopt", option={"donor": str(there)})
    refused(stories, stories / "out", "lies inside an input", tokens_of=str(there))


def test_an_output_that_would_take_texts_away_is_refused(stories: Path, tmp_path: Path) -> None:
    folder = tmp_path / "out"
    folder.mkdir()
    words, text = folder / "words.txt", folder / "text.txt"
    words.write_text("marmalade\n", encoding="utf-8")
    text.write_text("The haematologist measured haemoglobin and haemophilia. " * 20, encoding="utf-8")
    elsewhere = str(shutil.copyfile(text, tmp_path / "text.txt"))
    match = "the output holds a file that is read"
    refused(stories, folder, match, tokens=words)
    refused(stories, folder, match, corpus=[f"a={text}"], add=4)
    refused(stories, folder, match, corpus=[elsewhere], add=4, keep_corpus=[str(text)])
    refused(stories, folder, match, corpus=[elsewhere], add=4, probe=[str(folder)])
    vectors = {"source_vectors": str(text), "target_vectors": elsewhere}
    refused(stories, folder, match, corpus=[elsewhere], add=4, init="wechsel", option=vectors)

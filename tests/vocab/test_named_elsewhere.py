"""Tokens and ids that tokenizer.json does not hold, and that a configuration or another file names."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import AutoTokenizer

from surgeon.errors import SurgeonError
from surgeon.ops.execute import execute
from surgeon.vocab.plan import plan_extend_vocab
from surgeon.vocab.settings import ExtendVocabSettings

EMBEDDING = "model.embed_tokens.weight"


def _set(path: Path, **values: Any) -> None:
    held = json.loads(path.read_text(encoding="utf-8")) if path.is_file() else {}
    path.write_text(json.dumps(held | values), encoding="utf-8")


def _with_a_row_more(stories: Path, folder: Path) -> Path:
    """The stories model with one row behind its 512 tokens."""
    shutil.copytree(stories, folder)
    weights = load_file(folder / "model.safetensors")
    weights[EMBEDDING] = torch.cat([weights[EMBEDDING], weights[EMBEDDING].mean(0, keepdim=True)])
    save_file(weights, folder / "model.safetensors", {"format": "pt"})
    _set(folder / "config.json", vocab_size=513)
    return folder


def _plan(model: Path, tmp_path: Path, **options: Any) -> Any:
    tokens = tmp_path / "tokens.txt"
    tokens.write_text(" patient\n", encoding="utf-8")
    return plan_extend_vocab(
        ExtendVocabSettings(model=str(model), out=tmp_path / "out", tokens=tokens, init="mean", **options)
    )


@pytest.mark.parametrize("where", ["added_tokens.json", "added_tokens_decoder", "pad_token"])
def test_a_token_that_stands_beside_tokenizer_json_and_has_a_row_keeps_its_id_or_is_refused(
    stories: Path, tmp_path: Path, where: str
) -> None:
    model = _with_a_row_more(stories, tmp_path / "model")
    config = model / "tokenizer_config.json"
    _set(config, pad_token="[PAD]")
    if where == "added_tokens.json":
        _set(model / where, **{"[PAD]": 512})
    elif where == "added_tokens_decoder":
        flags = dict.fromkeys(("lstrip", "normalized", "rstrip", "single_word"), False)
        _set(config, added_tokens_decoder={"512": {"content": "[PAD]", "special": True} | flags})
    with pytest.raises(SurgeonError, match=r"'\[PAD\]' the id 512") as error:
        _plan(model, tmp_path)
    assert "save_pretrained" in error.value.hint

    saved = tmp_path / "saved"  # what the message says to do
    AutoTokenizer.from_pretrained(model).save_pretrained(saved)
    (model / "added_tokens.json").unlink(missing_ok=True)
    for path in saved.iterdir():
        shutil.copyfile(path, model / path.name)
    execute(_plan(model, tmp_path), tmp_path / "out")
    assert AutoTokenizer.from_pretrained(tmp_path / "out").pad_token_id == 512


def test_a_token_without_a_row_is_no_hindrance(stories: Path, tmp_path: Path) -> None:
    model = tmp_path / "model"
    shutil.copytree(stories, model)
    _set(model / "tokenizer_config.json", pad_token="[PAD]")
    assert AutoTokenizer.from_pretrained(model).pad_token_id == 512
    _plan(model, tmp_path)


def test_an_id_that_a_configuration_names_goes_to_no_new_token(stories: Path, tmp_path: Path) -> None:
    model = _with_a_row_more(stories, tmp_path / "model")
    _set(model / "config.json", pad_token_id=512)
    with pytest.raises(SurgeonError, match="pad_token_id names 512, an id that no token has"):
        _plan(model, tmp_path, use_padding=True)
    _plan(model, tmp_path)
    _set(model / "generation_config.json", eos_token_id=[1, 513])
    with pytest.raises(SurgeonError, match="eos_token_id names 513"):
        _plan(model, tmp_path)
    _set(model / "generation_config.json", eos_token_id=[1, 900], forced_decoder_ids=[[1, 513]])
    _plan(model, tmp_path)


def test_it_is_said_before_anything_is_learned(stories: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def begun(*_: Any, **__: Any) -> Any:
        raise AssertionError("begun")

    monkeypatch.setattr("surgeon.vocab.learn.learn", begun)
    model = _with_a_row_more(stories, tmp_path / "model")
    (tmp_path / "text.txt").write_text("The patient was well. " * 9, encoding="utf-8")
    learning = {"model": str(model), "out": tmp_path / "out", "corpus": [str(tmp_path / "text.txt")], "add": 3}
    _set(model / "config.json", pad_token_id=514)
    with pytest.raises(SurgeonError, match="pad_token_id names 514"):
        plan_extend_vocab(ExtendVocabSettings(**learning))
    _set(model / "config.json", pad_token_id=None)
    _set(model / "tokenizer_config.json", pad_token="[PAD]")
    with pytest.raises(SurgeonError, match="the id 512"):
        plan_extend_vocab(ExtendVocabSettings(**learning))


def test_a_tokenizer_that_cannot_be_loaded_is_refused_or_said_as_ever(stories: Path, tmp_path: Path) -> None:
    model = tmp_path / "model"
    shutil.copytree(stories, model)
    (model / "tokenizer_config.json").write_text("[]", encoding="utf-8")
    assert any("AutoTokenizer cannot load" in note for note in _plan(model, tmp_path).lineage.rows.learning["notes"])
    _set(model / "tokenizer.json", normalizer={"type": "Nope"})
    with pytest.raises(SurgeonError, match="tokenizers cannot read the file"):
        _plan(model, tmp_path)

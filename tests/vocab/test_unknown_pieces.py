"""Given tokens of which the old tokenizer knows no part: rows from pieces are alike, and that is said."""

from __future__ import annotations

from pathlib import Path

import pytest
import tiny
import torch
from kinds_material import GREEK, build
from safetensors.torch import load_file
from static_material import Said

from surgeon.ops.execute import execute
from surgeon.vocab.plan import plan_extend_vocab
from surgeon.vocab.settings import ExtendVocabSettings
from surgeon.vocab.tokenizer_json import TokenizerFile


@pytest.mark.parametrize(("kind", "told"), [("unigram", True), ("unigram_bytes", False)])
def test_rows_of_unknown_text_are_alike_and_that_is_said(kind: str, told: bool, tmp_path: Path) -> None:
    rows = TokenizerFile.open(build(kind, tmp_path / "tokenizer")).next_id
    model = tiny.build("llama", tmp_path / "model", vocab_size=rows)
    build(kind, model)
    words = dict.fromkeys(GREEK.replace("!", "").replace("·", "").replace(".", "").split())
    (tmp_path / "words.txt").write_text("\n".join(words) + "\n", encoding="utf-8")
    said, out = Said(), tmp_path / "out"
    settings = ExtendVocabSettings(model=str(model), out=out, tokens=tmp_path / "words.txt", init="subword_mean")
    execute(plan_extend_vocab(settings, said), out)
    new = load_file(out / "model.safetensors")["model.embed_tokens.weight"][rows:]
    alike = len(torch.unique(new, dim=0)) < len(new)
    assert alike is told
    assert any("nothing but unknown to the old tokenizer" in line for line in said.lines) is told

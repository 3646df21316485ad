"""What lies beside tokenizer.json: older files, SentencePiece models, the tokenizers of other libraries."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
from kinds_material import build
from test_tokenizer_files import changed
from vocab_material import write

from surgeon.errors import SurgeonError
from surgeon.vocab.tokenizer_files import extend_files
from surgeon.vocab.tokenizer_json import TokenizerFile


@pytest.mark.material
def test_files_beside_tokenizer_json_keep_what_they_held(material: Path, tmp_path: Path) -> None:
    source = material / "tokenizers" / "gpt2"
    old = TokenizerFile.open(source)
    files = extend_files(source, old, ["zqzq"], [("zq", "zq")] if "zq" in old.vocab else [], old.next_id + 3)
    for name in ("vocab.json", "merges.txt"):
        before = (source / name).read_text(encoding="utf-8")
        assert files.texts[name].startswith(before.rstrip("}\n"))
    assert json.loads(files.texts["vocab.json"])["zqzq"] == old.next_id + 3
    folder = write(tmp_path / "wrong", source)
    (folder / "vocab.json").write_text(json.dumps(old.model_vocab | {"zzzz": 5}))
    with pytest.raises(SurgeonError, match=r"vocab\.json contradicts tokenizer\.json"):
        extend_files(folder, old, ["zqzq"], [])
    (folder / "vocab.json").write_text(json.dumps(dict(list(old.model_vocab.items())[:-9])))
    with pytest.raises(SurgeonError, match="it lacks"):
        extend_files(folder, old, ["zqzq"], [])


def test_vocab_txt_numbers_its_lines(tmp_path: Path) -> None:
    folder = build("wordpiece", tmp_path / "wordpiece")
    old = TokenizerFile.open(folder)
    text = extend_files(folder, old, ["zq", "##zq"], [], old.next_id + 2).texts["vocab.txt"]
    lines = text.split("\n")
    assert text.startswith((folder / "vocab.txt").read_text(encoding="utf-8"))
    assert (lines.index("zq"), lines.index("##zq"), lines[-1]) == (old.next_id + 2, old.next_id + 3, "")
    (folder / "vocab.txt").write_text("\n".join(["[PAD]", "[CLS]"]))
    with pytest.raises(SurgeonError, match=r"vocab\.txt contradicts"):
        extend_files(folder, old, ["zq"], [])


def test_models_that_cannot_be_extended_are_left_out(tmp_path: Path) -> None:
    """Pieces one place off their ids (XLM-R), and a tiktoken list under the same name."""
    folder = build("unigram", tmp_path / "unigram")
    old = TokenizerFile.open(folder)
    shifted = [["<pad>", 0.0], *old.model["vocab"]]
    added = [t | {"id": t["id"] + 1} for t in old.added]
    model = (folder / "tokenizer.model").read_bytes()
    other = changed(tmp_path / "xlmr", folder, vocab=shifted, unk_id=1, _added_tokens=added, _post_processor=None)
    (other / "sentencepiece.bpe.model").write_bytes(model)
    (other / "tokenizer.model").write_text("IQ== 0\nIg== 1\n")
    files = extend_files(other, TokenizerFile.open(other), ["▁zq"], [])
    assert sorted(files.left_out) == ["sentencepiece.bpe.model", "tokenizer.model"] and not files.binary
    (folder / "spiece.model").write_bytes(model)
    assert sorted(extend_files(folder, old, ["▁zq"], []).binary) == ["spiece.model", "tokenizer.model"]


def test_files_of_other_libraries_go_along_until_tokens_are_added(stories: Path, tmp_path: Path) -> None:
    """tekken.json (mistral-common) and tiktoken.model: without them some models have no tokenizer, and with stale ones
    another vocabulary than tokenizer.json."""
    from surgeon.expand.plan import ExpandSettings
    from surgeon.operations import perform

    model = tmp_path / "model"
    shutil.copytree(stories, model)
    for name in ("tekken.json", "tiktoken.model"):
        (model / name).write_text("{}")
    perform("expand-layers", ExpandSettings(model=str(model), out=tmp_path / "deep", at=[1]))
    assert (tmp_path / "deep" / "tekken.json").is_file() and (tmp_path / "deep" / "tiktoken.model").is_file()
    files = extend_files(model, TokenizerFile.open(model), ["▁zqzq"], [])
    assert {"tekken.json", "tiktoken.model"} <= files.left_out.keys()

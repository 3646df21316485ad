"""WordPiece: whether a word can still be written wherever a new token cuts it."""

from __future__ import annotations

import json
from pathlib import Path

from kinds_material import build

from surgeon.vocab.tokenizer_json import TokenizerFile


def test_letters_that_only_longer_pieces_hold_are_named(tmp_path: Path) -> None:
    path = build("wordpiece", tmp_path) / "tokenizer.json"
    trained = TokenizerFile.open(tmp_path)
    assert "becomes unknown" not in trained.promise  # the trainer makes a piece of every letter
    data = json.loads(path.read_text(encoding="utf-8"))
    words = ["a", "b", "ab", "##a", "##b", "##c", "##u", "##cqu"]
    vocab = {token: i for i, token in enumerate(["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *words])}
    data["model"]["vocab"] = vocab
    data |= {"post_processor": None, "added_tokens": []}
    path.write_text(json.dumps(data), encoding="utf-8")
    old = TokenizerFile.open(tmp_path)
    before, after = (f.load().encode("abcqu").tokens for f in (old, old.extended(["abc"], [])))
    assert (before, after) == (["ab", "##cqu"], ["[UNK]"])
    assert old.bound_letters == ["q"]
    assert old.promise.endswith("begins with a letter that only longer pieces hold ('q')")

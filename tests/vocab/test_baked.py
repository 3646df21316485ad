"""Added tokens that must be written into the model's vocabulary: no text becomes one that did not before."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from kinds_material import build, lines

from surgeon.errors import SurgeonError
from surgeon.vocab.baked import check_baked
from surgeon.vocab.tokenizer_json import TokenizerFile

LOWER = {"type": "Lowercase"}


def with_added(folder: Path, kind: str, content: str, *, normalizer: Any = None, **flags: bool) -> TokenizerFile:
    """A tokenizer of `kind` with one more added token behind its last id; `normalizer` is put before its own."""
    path = build(kind, folder) / "tokenizer.json"
    data = json.loads(path.read_text(encoding="utf-8"))
    plain = dict.fromkeys(("single_word", "lstrip", "rstrip", "normalized", "special"), False)
    data["added_tokens"].append(plain | {"content": content, "id": len(data["model"]["vocab"])} | flags)
    if normalizer is not None:
        data["normalizer"] = {"type": "Sequence", "normalizers": [normalizer, data["normalizer"]]}
    path.write_text(json.dumps(data), encoding="utf-8")
    return TokenizerFile.open(folder)


@pytest.mark.parametrize(
    ("flags", "text"),
    [({"special": True}, "COVID"), ({"single_word": True, "normalized": True}, "covidx")],
    ids=["found before text is lowered", "a word of its own"],
)
def test_a_word_that_wordpiece_would_read_as_an_added_token_is_refused(
    tmp_path: Path, flags: dict[str, bool], text: str
) -> None:
    file = with_added(tmp_path / "old", "wordpiece", "covid", **flags)
    last = file.next_id - 1
    before, after = (f.load().encode(text, add_special_tokens=False).ids for f in (file, file.extended([], [])))
    assert last not in before and last in after  # what the refusal is for
    with pytest.raises(SurgeonError, match=f"'{text}' would become the added token 'covid'") as refused:
        check_baked(file)
    assert refused.value.where == str(file.path)


@pytest.mark.parametrize(
    ("content", "flags"),
    [
        ("covid", {"normalized": True}),  # as transformers adds a token: found in the lowered text
        ("[E1]", {"special": True}),  # split before the model
        ("[e1]", {"special": True}),
    ],
)
def test_added_tokens_that_stay_what_they_were_are_accepted(
    tmp_path: Path, content: str, flags: dict[str, bool]
) -> None:
    file = with_added(tmp_path / "old", "wordpiece", content, **flags)
    check_baked(file)
    texts = [content, content.upper(), content.lower(), f"x{content}x", *lines("general.valid", 20)]
    before, after = (f.load().encode_batch(texts) for f in (file, file.extended([], [])))
    assert [e.ids for e in before] == [e.ids for e in after]


@pytest.mark.parametrize("kind", ["unigram", "unigram_bytes"])
def test_unigram_scores_them_below_their_own_pieces(tmp_path: Path, kind: str) -> None:
    """All the letters are pieces, so that another way to write the word is left whatever it costs."""
    file = with_added(tmp_path / "old", kind, "someothername", normalizer=LOWER, special=True)
    check_baked(file)
    texts = ["SOMEOTHERNAME", "Someothername", "someothername"]
    before, after = (f.load().encode_batch(texts) for f in (file, file.extended([], [])))
    assert [e.ids for e in before] == [e.ids for e in after]
    assert [file.next_id - 1 in e.ids for e in after] == [False, False, True]


def test_unigram_without_pieces_for_all_of_it_is_refused(tmp_path: Path) -> None:
    file = with_added(tmp_path / "old", "unigram", "ωmega", normalizer=LOWER, special=True)
    with pytest.raises(SurgeonError, match="would become the added token 'ωmega'"):
        check_baked(file)

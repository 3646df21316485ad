"""Given tokens: reachable, or refused with the reason."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest

from surgeon.errors import SurgeonError
from surgeon.vocab.given import given_tokens, read_tokens
from surgeon.vocab.token_text import text_token
from surgeon.vocab.tokenizer_json import TokenizerFile, unreachable

WORDS = [" haematologist", " haematology", "myocarditis", " καρδιά", "心筋炎", " abab", "ababab"]


@pytest.mark.material
@pytest.mark.parametrize("name", ["models/base", "tokenizers/gpt2", "tokenizers/mistral-v1"])
def test_every_given_token_is_one_token(material: Path, name: str) -> None:
    old = TokenizerFile.open(material / name)
    words = [word for word in WORDS if text_token(old, word) not in old.vocab]
    found = given_tokens(old, words)
    new = old.extended(found.tokens, found.merges)
    wanted = [text_token(old, word) for word in words]
    assert unreachable(new, wanted) == []
    assert set(found.tokens) == {*wanted, *found.helpers}
    tokenizer = new.load()
    for word in words:
        ids = tokenizer.encode(f"see{word if word.startswith(' ') else ' x ' + word} here").ids
        assert "\ufffd" not in tokenizer.decode(ids)
        if word.startswith(" "):
            assert new.vocab[text_token(old, word)] in ids


def test_refusals_name_the_reason(stories: Path) -> None:
    old = TokenizerFile.open(stories)
    for words, reason in [
        ([" the"], "a token already"),
        ([" zqxj", " zqxj"], "stands twice"),
        ([" "], "blank"),
        (["two words"], "space inside"),
        (["word "], "space inside or at its end"),
        (["a\ud800"], "surrogate"),
        (["<s>x"], "holds the added token '<s>'"),
        (["<s>"], "'<s>' is a token already"),
        (["<0x41>"], "a token already"),
        ([" zqxj", "\u3000"], "blank"),
    ]:
        with pytest.raises(SurgeonError, match=reason):
            given_tokens(old, words)


def test_the_line_that_is_wrong_is_named(stories: Path) -> None:
    old = TokenizerFile.open(stories)
    with pytest.raises(SurgeonError, match="first on line 1") as refused:
        given_tokens(old, [" zqxj", "qqz", " zqxj"], "words.txt")
    assert refused.value.where == "words.txt:3"


@pytest.mark.material
def test_what_the_tokenizer_changes_is_refused(material: Path) -> None:
    old = TokenizerFile.open(material / "tokenizers" / "qwen2")  # composes (NFC)
    with pytest.raises(SurgeonError, match="changes 'e\u0301tudezz' to 'étudezz'"):
        given_tokens(old, ["e\u0301tudezz"])
    assert given_tokens(old, ["étudezz"]).tokens[-1] == text_token(old, "étudezz")


@pytest.mark.material
def test_what_the_tokenizer_always_splits_is_refused(material: Path) -> None:
    old = TokenizerFile.open(material / "tokenizers" / "gpt2")
    with pytest.raises(SurgeonError, match=r"always splits 'beta-blocker': 'beta' \| '-' \| 'blocker'"):
        given_tokens(old, ["beta-blocker"])


def test_a_pre_tokenizer_before_byte_fallback_splits_too(stories: Path, tmp_path: Path) -> None:
    data = json.loads((stories / "tokenizer.json").read_text(encoding="utf-8"))
    split = [{"type": "Digits", "individual_digits": True}, {"type": "Punctuation", "behavior": "Isolated"}]
    data["pre_tokenizer"] = {"type": "Sequence", "pretokenizers": split}
    (tmp_path / "tokenizer.json").write_text(json.dumps(data), encoding="utf-8")
    old = TokenizerFile.open(tmp_path)
    for text, parts in [(" 12", "' ' | '1' | '2'"), ("a1", "'a' | '1'"), ("foo-bar", "'foo' | '-' | 'bar'")]:
        with pytest.raises(SurgeonError, match=re.escape(f"always splits {text!r}: {parts}")):
            given_tokens(old, [text])
    found = given_tokens(old, [" zqxj", "zqq", "日本"])
    new = old.extended(found.tokens, found.merges)
    for text in (" zqxj", "zqq", "日本"):
        assert new.vocab[text_token(new, text)] in new.load().encode(f"see 1{text} now").ids


def test_the_file_is_read_as_it_is(tmp_path: Path) -> None:
    path = tmp_path / "tokens.txt"
    path.write_text(" one\ntwo\r\n", encoding="utf-8")
    assert read_tokens(path) == [" one", "two"]
    path.write_bytes(b"\xff\xfe")
    with pytest.raises(SurgeonError, match="UTF-8"):
        read_tokens(path)
    path.write_text("\ufeffone\n", encoding="utf-8")
    assert read_tokens(path) == ["one"]
    with pytest.raises(SurgeonError, match="cannot be read"):
        read_tokens(tmp_path)
    path.write_text("", encoding="utf-8")
    with pytest.raises(SurgeonError, match="no token"):
        read_tokens(path)
    with pytest.raises(SurgeonError, match="no such file"):
        read_tokens(tmp_path / "absent")

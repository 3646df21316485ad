"""--script, --keep-corpus, --stop-gain and the curve, on real tokenizers and texts."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from vocab_material import documents, extended, lines

from surgeon.errors import SurgeonError, UsageError
from surgeon.progress import Silent
from surgeon.vocab.learn import Learned, learn
from surgeon.vocab.script import script_named
from surgeon.vocab.token_text import token_bytes, token_text
from surgeon.vocab.tokenizer_json import TokenizerFile

pytestmark = pytest.mark.material
# a text of another language in the same and in another script, for both kinds
CURVES = [("models/base", "ta"), ("tokenizers/gpt2", "medical_en"), ("tokenizers/mistral-v1", "code_py")]

LOADED: dict[int, Any] = {}
PIECES: dict[str, list[list[int]]] = {}


def after(old: TokenizerFile, learned: Learned) -> TokenizerFile:
    return old.extended(learned.tokens, learned.merges)


def ids(file: TokenizerFile, texts: Sequence[str]) -> list[list[int]]:
    return [encoding.ids for encoding in file.load().encode_batch(list(texts), add_special_tokens=False)]


def loaded(file: TokenizerFile) -> Any:
    """Kept, as loading takes longer than an example."""
    if id(file) not in LOADED:
        LOADED[id(file)] = file.load()
    return LOADED[id(file)]


def count(file: TokenizerFile, texts: Sequence[str]) -> int:
    return sum(map(len, ids(file, texts)))


@pytest.mark.parametrize(("tokenizer", "target"), CURVES)
def test_the_curve_is_what_encoding_again_counts(material: Path, tokenizer: str, target: str) -> None:
    old, texts = TokenizerFile.open(material / tokenizer), documents(material, target)
    learned = learn(old, texts, 400)
    assert 30 <= len(learned.curve) <= 70
    assert learned.curve[0] == (0, learned.tokens_before) == (0, count(old, texts))
    assert learned.curve[-1] == (400, learned.tokens_after)
    assert [k for k, _ in learned.curve] == sorted({k for k, _ in learned.curve})
    for k, tokens in learned.curve[10::13]:
        fewer = learn(old, texts, k)
        assert (fewer.tokens, fewer.tokens_after) == (learned.tokens[:k], tokens)
        assert count(after(old, fewer), texts) == tokens
    assert count(after(old, learned), texts) == learned.tokens_after


@pytest.mark.parametrize(
    ("tokenizer", "target", "script"),
    [
        ("models/base", "ta", "Tamil"), ("tokenizers/gpt2", "hi", "Deva"), ("tokenizers/mistral-v1", "ja", "auto"),
        pytest.param("tokenizers/qwen2", "el", "auto", marks=pytest.mark.long),
        pytest.param("tokenizers/gpt2", "medical_en", "auto", marks=pytest.mark.long),
    ],
)  # fmt: skip
def test_tokens_are_of_the_script(material: Path, tokenizer: str, target: str, script: str) -> None:
    old = TokenizerFile.open(material / tokenizer)
    texts = (*documents(material, target), *documents(material, "code_py"))
    num = 100
    learned = learn(old, texts, num, script=script)
    named = {"ta": "Tamil", "hi": "Devanagari", "el": "Greek", "ja": "Japanese", "medical_en": "Latin"}[target]
    assert learned.script == named == learned.to_json()["script"]
    owner = script_named(named)
    assert len(learned.tokens) == num
    assert all(owner.owns(token_bytes(old, token)) for token in learned.tokens)
    assert count(after(old, learned), texts) == learned.tokens_after
    if named != "Latin":  # text without the script is left alone
        general = lines(material, "general_en", 300)
        plain = [text for text in general if not any(owner.owns(c.encode()) for c in text)]
        assert len(plain) > 0.9 * len(general)
        assert ids(after(old, learned), plain) == ids(old, plain)


def test_an_unknown_script_is_refused_before_anything_is_read(material: Path) -> None:
    old = TokenizerFile.open(material / "models" / "base")
    with pytest.raises(UsageError, match="did you mean 'Tamil'"):
        learn(old, iter(lambda: 1 / 0, None), 5, script="Tamill")


@pytest.mark.parametrize(
    ("tokenizer", "target"),
    [
        ("tokenizers/gpt2", "medical_en"), ("tokenizers/mistral-v1", "medical_en"), ("models/base", "ja"),
        pytest.param("tokenizers/qwen2", "medical_en", marks=pytest.mark.long),
        pytest.param("models/base", "medical_en", marks=pytest.mark.long),
        pytest.param("models/stories260K", "medical_en", marks=pytest.mark.long),
    ],
)  # fmt: skip
def test_the_text_to_keep_is_encoded_as_before(material: Path, tokenizer: str, target: str) -> None:
    old = TokenizerFile.open(material / tokenizer)
    texts = documents(material, target)
    keep = (*documents(material, "general_en"), *lines(material, target, 5), "naïve 心 한 😀")
    learned = learn(old, texts, 250, keep=iter(keep))
    assert ids(after(old, learned), keep) == ids(old, keep)
    # what it had to give up for that: without it the text changes, the number is reached in both cases
    free = learn(old, texts, 250)
    assert learned.banned and ids(after(old, free), keep) != ids(old, keep)
    assert len(learned.tokens) == len(free.tokens) == 250
    assert count(after(old, learned), texts) == learned.tokens_after
    assert learned.to_json()["banned"] == learned.banned
    assert free.to_json()["banned"] is None


def test_a_banned_merge_makes_room_for_others(material: Path) -> None:
    """Not the same tokens without the banned ones: counts go on as if these could not be."""
    old = TokenizerFile.open(material / "tokenizers" / "gpt2")
    texts = ["the zqxjkv zqxjkw"] * 50
    free = learn(old, texts, 3)
    keep = [token_text(old, free.tokens[0])]
    held = learn(old, texts, 3, keep=keep)
    assert free.tokens[0] not in held.tokens
    assert not any(free.tokens[0] in pair for pair in held.merges)
    assert ids(after(old, held), keep) == ids(old, keep)


def test_what_the_text_to_keep_costs_is_said(material: Path) -> None:
    """A foreign letter in it is a letter that cannot become a token, nor anything built on it."""
    said: list[str] = []

    class Told(Silent):
        def say(self, line: str) -> None:
            said.append(line)

    old = TokenizerFile.open(material / "models" / "base")
    texts = ["தமிழ் தமிழ் கடல்"] * 20
    learned = learn(old, texts, 5, keep=["a letter: த"], progress=Told())
    assert learned.banned == 1 and not any("த" in token for token in learned.tokens)
    assert said == ["passed over 1 merges that would change the text to keep, most of all 'த' (80 tokens)"]
    with pytest.raises(SurgeonError, match=r"supports \d+ new tokens") as refused:
        learn(old, texts, 500, keep=["a letter: த"])
    assert "'த' (80 tokens)" in refused.value.where
    assert refused.value.hint.endswith("take the target language out of the text to keep")
    with pytest.raises(SurgeonError, match="supports 0 new tokens") as refused:  # what was passed over last counts
        learn(old, texts, 5, keep=texts)
    assert "passed over" in refused.value.where
    assert refused.value.hint.endswith("take the target language out of the text to keep")
    with pytest.raises(SurgeonError, match="supports 0 new tokens"):  # not for the gain's sake
        learn(old, texts, 5, keep=texts, stop_gain=1)


@pytest.mark.parametrize("tokenizer", ["models/base", "tokenizers/gpt2"])
def test_the_number_that_is_supported_can_be_had(material: Path, tokenizer: str) -> None:
    old, texts = TokenizerFile.open(material / tokenizer), ["the haematologist and the haematologist"]
    for min_count in (2, 1):
        with pytest.raises(SurgeonError, match="supports") as refused:
            learn(old, texts, 500, min_count=min_count)
        assert ("--min-count" in refused.value.hint) == (min_count == 2)
        supported = int(refused.value.hint.split()[2])
        assert len(learn(old, texts, supported, min_count=min_count).tokens) == supported


def test_nothing_to_keep_is_refused(material: Path) -> None:
    old = TokenizerFile.open(material / "models" / "stories260K")
    with pytest.raises(SurgeonError, match="to keep holds no text"):
        learn(old, ["a b"] * 9, 1, keep=[])


def test_it_stops_where_too_little_is_gained(material: Path) -> None:
    old, texts = TokenizerFile.open(material / "models" / "base"), documents(material, "medical_en")
    learned = learn(old, texts, 3000, stop_gain=15)
    assert learned.stopped and learned.to_json()["stopped"] is True
    num = len(learned.tokens)
    assert 0 < num < 3000
    more = learn(old, texts, num + 1000)
    assert more.tokens[:num] == learned.tokens
    least = 0.15 * count(old, texts)
    saved = [count(after(old, learn(old, texts, k)), texts) for k in (num - 1, num, num + 999, num + 1000)]
    assert saved[0] - saved[2] >= least > saved[1] - saved[3]
    # without reaching it, exactly what was asked for
    assert learn(old, texts, num, stop_gain=15) == learn(old, texts, num)
    # a corpus that runs out ends it too
    short = learn(old, ["the haematologist saw the haematologist"], 500, stop_gain=0.1)
    assert short.stopped and 0 < len(short.tokens) < 500
    with pytest.raises(SurgeonError, match=r"already the first 1,000 .* less than 99 per cent"):
        learn(old, texts, 10, stop_gain=99)


@pytest.mark.parametrize(
    "tokenizer", ["models/base", "tokenizers/minimind-6400", pytest.param("tokenizers/gpt2", marks=pytest.mark.long)]
)
def test_a_tokenizer_is_extended_again_and_again(material: Path, tokenizer: str) -> None:
    old = TokenizerFile.open(material / tokenizer)
    targets = ("medical_en", "el", "medical_en")
    for target in targets:
        texts, keep = documents(material, target), lines(material, "general_en")
        learned = learn(old, texts, 60, keep=keep)
        new = after(old, learned)
        assert len(learned.tokens) == 60 and new.unreachable(learned.tokens) == []
        assert [new.vocab[t] for t in learned.tokens] == list(range(old.next_id, old.next_id + 60))
        assert set(learned.tokens).isdisjoint(old.vocab)
        assert count(new, texts) == learned.tokens_after < count(old, texts)
        assert ids(new, keep) == ids(old, keep)
        old = new
    # in two steps it comes to what one step learns (the text's counts are the same)
    first, texts = TokenizerFile.open(material / tokenizer), documents(material, "medical_en")
    step = learn(first, texts, 60)
    assert (*step.tokens, *learn(after(first, step), texts, 60).tokens) == learn(first, texts, 120).tokens


EXTENDED = [
    ("models/base", "ta"), ("tokenizers/gpt2", "ta"),
    pytest.param("tokenizers/qwen2", "medical_en", marks=pytest.mark.long),
]  # fmt: skip
ODD = st.text(
    st.one_of(
        st.characters(exclude_categories=["Cs"]),
        st.sampled_from("\x00\u200d\u200c\u0301\u0bcdதமிழ்👩👧🏽️ \n\taé▁<|>"),
    ),
    max_size=40,
)


@pytest.mark.parametrize(("tokenizer", "target"), EXTENDED)
@settings(deadline=None, max_examples=100, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(text=ODD)
def test_any_text_is_its_old_pieces_joined(material: Path, tokenizer: str, target: str, text: str) -> None:
    """With every new token written as its old pieces the old encoding is back: so a text never takes more tokens than
    before. And it decodes to itself if it did before."""
    old, learned, files = extended(material, tokenizer, target)
    before, now = loaded(old), loaded(files.file)
    pieces = dict(enumerate(PIECES.setdefault(tokenizer, old.pieces(learned.tokens)), old.next_id))
    for written in (text, f"{text} {documents(material, target)[0][:200]}"):
        was, found = (t.encode(written, add_special_tokens=False).ids for t in (before, now))
        assert [i for new in found for i in pieces.get(new, [new])] == was
        if before.decode(was, skip_special_tokens=False) == written:
            assert now.decode(found, skip_special_tokens=False) == written


def test_byte_level_with_the_flag_of_byte_fallback_is_byte_level(material: Path, tmp_path: Path) -> None:
    """No piece <0xNN> is there for the flag, and text never lacks one: it changes nothing of what is encoded."""
    old, texts = TokenizerFile.open(material / "tokenizers" / "minimind-6400"), documents(material, "ta", 5)
    (tmp_path / "tokenizer.json").write_text(
        json.dumps(old.data | {"model": old.model | {"byte_fallback": True}}), encoding="utf-8"
    )
    flagged = TokenizerFile.open(tmp_path)
    assert count(flagged, texts) == count(old, texts)
    assert learn(flagged, texts, 100) == learn(old, texts, 100)


def test_hostile_corpora(material: Path) -> None:
    old = TokenizerFile.open(material / "models" / "base")
    for texts, reason in [
        ([], "no text"), ([""], "no text"), (["the"], "supports 0 new tokens"), (["word"] * 3, "supports 0"),
        (["a\ud800b"], "surrogate"),
    ]:  # fmt: skip
        with pytest.raises(SurgeonError, match=reason) as refused:
            learn(old, texts, 5)
        assert "0 or fewer" not in refused.value.hint
    with pytest.raises(UsageError, match="none"):
        learn(old, ["text"], 0)
    with pytest.raises(SurgeonError, match="no letters"):
        learn(old, ["1 2 3"], 1, script="auto")
    # control characters, lone marks and joiners do no harm
    odd = ["\x00\u0301\u200d👩\u200d👧 zqxj\x00zqxj" * 9]
    learned = learn(old, odd, 6)
    assert count(after(old, learned), odd) == learned.tokens_after

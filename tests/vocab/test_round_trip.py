"""Whole extensions of real tokenizers: every text comes back as the old tokenizer brought it back.

Real corpora in ten scripts and kinds, and random Unicode; and text that is no Unicode is refused where it enters.
"""

from __future__ import annotations

import contextlib
import io
import json
import shutil
from collections.abc import Callable, Iterator
from functools import cache
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from surgeon.ops.execute import execute
from surgeon.vocab.plan import plan_extend_vocab
from surgeon.vocab.settings import ExtendVocabSettings

# tokenizer -> the corpus that it is extended on
EXTENDED = {
    "tokenizers/gpt2": "ta",
    "tokenizers/qwen2": "hi",
    "tokenizers/minimind-6400": "ja",
    "tokenizers/mistral-v1": "el",
    "models/base": "ta",
    "models/stories260K": "medical_en",
}
# the command takes seconds on a tokenizer of 150,000 tokens
NAMES = [pytest.param(n, marks=pytest.mark.long) if n == "tokenizers/qwen2" else n for n in EXTENDED]
CORPORA = (
    "code_py", "el", "finance_en", "general_en", "hi", "instruct", "ja", "law_en", "maths_en", "medical_en",
    "stories_en", "ta",
)  # fmt: skip
SAMPLE = 6000  # characters of each corpus by default
ADD = 300

Pair = tuple[Any, Any]
Build = Callable[[str], Pair]


@pytest.fixture(scope="module")
def extension(material: Path, tmp_path_factory: pytest.TempPathFactory, tiny: Callable[..., Path]) -> Build:
    """`extension(name)`: (old, new) tokenizers; the new one as the command wrote it, with a model around it."""
    from tokenizers import Tokenizer

    @cache
    def of(name: str) -> Pair:
        folder = tmp_path_factory.mktemp("round-trip")
        model, source = material / name, material / name
        if name.startswith("tokenizers/"):
            old = Tokenizer.from_file(str(source / "tokenizer.json"))
            size = max(old.get_vocab().values()) + 1
            small = {"hidden_size": 8, "num_hidden_layers": 1, "num_attention_heads": 2, "num_key_value_heads": 1}
            model = tiny("llama", "bfloat16", vocab_size=size, tie_word_embeddings=True, **small)
            model = Path(shutil.copytree(model, folder / "old"))
            for path in source.iterdir():
                shutil.copyfile(path, model / path.name)
        corpus = str(material / "corpora" / f"{EXTENDED[name]}.valid.jsonl")
        plan = ExtendVocabSettings(model=str(model), out=folder / "new", corpus=[corpus], add=ADD)
        execute(plan_extend_vocab(plan), folder / "new", threads=1)
        old, new = (Tokenizer.from_file(str(f / "tokenizer.json")) for f in (source, folder / "new"))
        assert new.get_vocab_size() - old.get_vocab_size() == ADD
        return old, new

    return of


def check(pair: Pair, text: str) -> None:
    """The same text back, special tokens and all; in no more tokens; and alone as in a batch."""
    old, new = pair
    before, after = old.encode(text), new.encode(text)
    assert new.decode(after.ids) == old.decode(before.ids)
    assert new.decode(after.ids, skip_special_tokens=False) == old.decode(before.ids, skip_special_tokens=False)
    assert len(after.ids) <= len(before.ids)


def texts(material: Path, corpus: str, characters: int | None) -> Iterator[str]:
    left = characters
    with (material / "corpora" / f"{corpus}.valid.jsonl").open(encoding="utf-8") as file:
        for line in file:
            record = json.loads(line)
            text = record["text"] if "text" in record else f"{record['instruction']}\n{record['output']}"
            yield text if left is None else text[:left]
            if left is not None:
                left -= len(text)
                if left <= 0:
                    return


@pytest.mark.material
@pytest.mark.parametrize("name", NAMES)
def test_real_texts_come_back(material: Path, extension: Build, name: str) -> None:
    old, new = extension(name)
    shorter = 0
    for corpus in CORPORA:
        for text in texts(material, corpus, SAMPLE):
            check((old, new), text)
            shorter += len(new.encode(text).ids) < len(old.encode(text).ids)
    assert shorter > 0  # the new tokens are in use


@pytest.mark.long
@pytest.mark.material
@pytest.mark.parametrize("name", EXTENDED)
def test_every_real_text_comes_back(material: Path, extension: Build, name: str) -> None:
    pair = extension(name)
    for corpus in CORPORA:
        for text in texts(material, corpus, None):
            check(pair, text)


EMOJI = ["👩‍👩‍👧‍👦", "🏳️‍🌈", "👍🏽", "🇹🇳🇫🇷🇮", "🧑🏿‍🚀", "❤️", "1️⃣", "\U000e0067\U000e007f", "🫱🏻‍🫲🏿"]
MARKS = ["e\u0301", "é", "n\u0303\u0323", "\u0301", "கொ", "க\u0bc6\u0bbe", "क्षि", "가", "\u1112\u1161\u11ab", "Z͑ͫ̓ͪ̂ͫ̽͏̴̙̤"]
RIGHT_TO_LEFT = ["שלום", "مرحبا", "\u202eabc\u202c", "\u2067א1\u2069", "\u200f", "לְ\u05b0", "ﷺ"]
CONTROLS = [
    "\0",
    "\0\0",
    "\x01",
    "\x1b[31m",
    "\x7f",
    "\x85",
    "\u2028",
    "\ufeff",
    "\ufffd",
    "\uffff",
    "\U0010ffff",
    "\u200b",
]
SPACES = [" ", "  ", "\t", "\n", "\r\n", "\n\n ", "\u00a0", "\u3000", "\u2009", "▁", "▁▁a", "Ġ", " ▁ "]
MARKUP = ["<s>", "</s>", "<|endoftext|>", "<|im_start|>", "<unk>", "<0x41>", "<0xE0>", "<|im_end", "[UNK]"]
WORDS = [" haemoglobin", "கண்", "அவர்", "नहीं", "です", "και", "don't", "x=1;", "3.14", "ﬁ", "Ⅷ", "ẞ", "İ"]
PARTS = [*EMOJI, *MARKS, *RIGHT_TO_LEFT, *CONTROLS, *SPACES, *MARKUP, *WORDS]
UNICODE = st.one_of(
    st.text(max_size=40), st.lists(st.sampled_from(PARTS) | st.text(max_size=3), max_size=12).map("".join)
)


@pytest.mark.material
@pytest.mark.parametrize("name", NAMES)
def test_random_unicode_comes_back(extension: Build, name: str) -> None:
    pair = extension(name)

    @settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.too_slow], database=None)
    @given(UNICODE)
    def property_(text: str) -> None:
        check(pair, text)

    property_()
    for part in PARTS:
        check(pair, part)
        check(pair, f"a{part}b {part}{part}")


@pytest.mark.material
@pytest.mark.parametrize("name", NAMES)
def test_what_a_new_token_stands_for_comes_back_from_it_alone(extension: Build, name: str) -> None:
    """Each new id decodes to what its pieces decode to, also between other tokens."""
    old, new = extension(name)
    first = max(old.get_vocab().values()) + 1
    word = old.encode("word", add_special_tokens=False).ids
    for i in range(first, first + ADD):
        pieces = [piece.id for piece in old.model.tokenize(new.id_to_token(i))]
        assert new.decode([*word, i, *word]) == old.decode([*word, *pieces, *word])


HALF = "a \ud83d b"  # half of an emoji, as a record cut in the middle has it


def lines_of(*words: str) -> tuple[int, list[str]]:
    from surgeon.cli.app import main

    err = io.TextIOWrapper(io.BytesIO(), encoding="utf-8", errors="backslashreplace", write_through=True)
    code: object = 0
    with contextlib.redirect_stderr(err), contextlib.redirect_stdout(io.StringIO()):
        try:
            main(list(words))
        except SystemExit as stop:
            code = stop.code
    assert isinstance(code, int)
    return code, err.buffer.getvalue().decode().strip().splitlines()  # type: ignore[attr-defined]


@pytest.mark.parametrize(
    "record",
    [
        {"text": HALF},
        {"messages": [{"role": "user", "content": HALF}, {"role": "assistant", "content": "yes"}]},
        {"messages": [{"role": "user\ud83d", "content": "?"}, {"role": "assistant", "content": "yes"}]},
        {"instruction": "say", "output": HALF},
    ],
    ids=["text", "message", "role", "instruction"],
)
@pytest.mark.parametrize("where", ["--corpus", "--keep-corpus"])
def test_half_of_a_surrogate_pair_is_refused_where_the_text_enters(
    stories: Path, tmp_path: Path, record: dict[str, Any], where: str
) -> None:
    good = json.dumps({"text": "haemoglobin and haematocrit, haemoglobin and haematocrit"})
    (tmp_path / "good.jsonl").write_text(f"{good}\n", encoding="utf-8")
    fine = {"text": "fine"} if "text" in record else {"instruction": "say", "output": "fine"}
    bad = tmp_path / "bad.jsonl"
    bad.write_text(f"{json.dumps(fine)}\n{json.dumps(record)}\n", encoding="utf-8")
    words = [
        "extend-vocab",
        str(stories),
        str(tmp_path / "out"),
        "--add",
        "2",
        "--corpus",
        str(tmp_path / "good.jsonl"),
    ]
    code, lines = lines_of(*words, where, str(bad))
    assert code == 1
    assert len(lines) == 3, lines
    assert "half of a surrogate pair" in lines[0]
    assert "bad.jsonl:2" in "".join(lines)
    assert not (tmp_path / "out").exists()


def test_a_parquet_string_that_is_not_utf8_is_refused(stories: Path, tmp_path: Path) -> None:
    pa, parquet = pytest.importorskip("pyarrow"), pytest.importorskip("pyarrow.parquet")
    buffers = pa.array([b"fine", b"a \xed\xa0\xbd b"]).buffers()
    strings = pa.Array.from_buffers(pa.utf8(), 2, buffers)
    parquet.write_table(pa.table({"text": strings}), tmp_path / "bad.parquet")
    code, lines = lines_of(
        "extend-vocab", str(stories), str(tmp_path / "out"), "--add", "2", "--corpus", str(tmp_path / "bad.parquet")
    )
    assert (code, len(lines)) == (1, 3), lines
    assert "cannot be read" in lines[0]


def test_a_token_list_with_half_of_a_pair_is_refused(stories: Path, tmp_path: Path) -> None:
    """UTF-8 cannot hold one: its bytes are refused as what they are."""
    path = tmp_path / "tokens.txt"
    path.write_bytes(b" haemoglobin\n x\xed\xa0\xbdy\n")
    code, lines = lines_of("extend-vocab", str(stories), str(tmp_path / "out"), "--tokens", str(path))
    assert (code, len(lines)) == (1, 3), lines
    assert "UTF-8" in lines[0]

"""A tokenizer that makes nothing of the texts is refused: a run would learn their ends only, and say nothing."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from tokenizers import Tokenizer
from tokenizers.models import BPE
from tokenizers.pre_tokenizers import WhitespaceSplit
from transformers import PreTrainedTokenizerFast

from surgeon.data import token_cache
from surgeon.data.items import prepare, windows
from surgeon.data.source import Document, parse_corpus
from surgeon.data.tokens import tokenise
from surgeon.errors import SurgeonError


def corpus_of(folder: Path, texts: list[str]) -> Path:
    path = folder / "texts.jsonl"
    path.write_text("".join(json.dumps({"text": text}) + "\n" for text in texts))
    return path


@pytest.fixture
def tokenizer() -> PreTrainedTokenizerFast:
    """Of two letters, which drops all others, as a rebuilt tokenizer of another kind does."""
    made = Tokenizer(BPE({"<end>": 0, "a": 1, "b": 2}, []))
    made.pre_tokenizer = WhitespaceSplit()
    return PreTrainedTokenizerFast(tokenizer_object=made, eos_token="<end>")


def test_texts_of_which_no_token_is_made_are_refused(tokenizer: PreTrainedTokenizerFast, tmp_path: Path) -> None:
    path = corpus_of(tmp_path, ["none of this", "not in time"])
    with pytest.raises(SurgeonError, match="makes no token of the texts") as error:
        tokenise(parse_corpus(str(path)), tokenizer)
    assert str(path) in error.value.where and type(tokenizer).__name__ in error.value.problem


def test_one_text_without_tokens_among_others_is_a_text(tokenizer: PreTrainedTokenizerFast, tmp_path: Path) -> None:
    found = tokenise(parse_corpus(str(corpus_of(tmp_path, ["nothing", "a b"]))), tokenizer)
    assert found.ids.tolist() == [0, 1, 2, 0] and found.num_documents == 2


def test_a_text_without_tokens_is_a_text_wherever_it_stands(
    tokenizer: PreTrainedTokenizerFast, tmp_path: Path
) -> None:
    """Also where it is alone in a batch of those that are encoded together."""
    found = tokenise(parse_corpus(str(corpus_of(tmp_path, ["a"] * 512 + ["nothing"]))), tokenizer)
    assert found.num_documents == 513 and found.ids[-3:].tolist() == [1, 0, 0]


def test_a_batch_without_any_token_is_no_end_of_a_corpus(
    tokenizer: PreTrainedTokenizerFast, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    tokenizer.eos_token = None  # then nothing is put around a text either
    corpus = parse_corpus(str(corpus_of(tmp_path, ["a"] * 512 + ["nothing"])))
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    for least in (1 << 20, 0):  # in memory, and through the cache
        monkeypatch.setattr(token_cache, "MIN_BYTES", least)
        found = token_cache.read_tokens(corpus, tokenizer).tokens
        assert (found.num_documents, found.num_tokens, found.max_id) == (513, 512, 1)


def test_a_text_without_tokens_has_nothing_to_score(tokenizer: PreTrainedTokenizerFast) -> None:
    tokenizer.eos_token = None
    texts = [Document("a", "nothing"), Document("b", "a b a")]
    assert [item.num_tokens for item in prepare(texts, tokenizer)] == [0, 2]
    assert [w.item for w in windows(prepare(texts, tokenizer), 8)] == [1]

"""A tokenizer that makes nothing of the texts is refused: a run would learn their ends only, and say nothing."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from tokenizers import Tokenizer
from tokenizers.models import BPE
from tokenizers.pre_tokenizers import WhitespaceSplit
from transformers import PreTrainedTokenizerFast

from surgeon.data.source import parse_corpus
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

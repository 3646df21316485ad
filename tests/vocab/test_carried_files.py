"""Every operation carries the tokenizer files that extend-vocab knows."""

from __future__ import annotations

from surgeon.checkpoint.sidecars import TOKENIZER_FILES
from surgeon.vocab.tokenizer_files import MERGES_TXT, VOCAB_JSON, VOCAB_TXT
from surgeon.vocab.tokenizer_json import TOKENIZER_JSON
from surgeon.vocab.tokenizer_model import MODEL_FILES


def test_files_of_tokenizers_are_carried() -> None:
    assert {TOKENIZER_JSON, VOCAB_JSON, MERGES_TXT, VOCAB_TXT, *MODEL_FILES} <= {*TOKENIZER_FILES}

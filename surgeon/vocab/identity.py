"""How many texts two tokenizers encode alike."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from itertools import islice

from surgeon.vocab.tokenizer_json import TokenizerFile

_BATCH = 256


def identical_texts(old: TokenizerFile, new: TokenizerFile, texts: Iterable[str]) -> dict[str, int]:
    """{"texts", "identical"}: of the texts, those with the same ids from both, without special tokens."""
    before, after = old.load(), new.load()
    num = same = 0
    for batch in _batches(texts):
        rows = [t.encode_batch_fast(batch, add_special_tokens=False) for t in (before, after)]
        num += len(batch)
        same += sum(a.ids == b.ids for a, b in zip(*rows, strict=True))
    return {"texts": num, "identical": same}


def _batches(texts: Iterable[str]) -> Iterator[list[str]]:
    iterator = iter(texts)
    while batch := list(islice(iterator, _BATCH)):
        yield batch

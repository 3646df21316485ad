"""Real text and the tokens learned from it, for vocab_cw2v.py."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any


def texts_of(material: Path, name: str, megabytes: float) -> list[str]:
    found, left = [], megabytes * 1e6
    with (material / "corpora" / f"{name}.train.jsonl").open(encoding="utf-8") as file:
        for line in file:
            found.append(json.loads(line)["text"])
            left -= len(found[-1].encode())
            if left < 0:
                break
    return found


def tokens_of(folder: Path, texts: list[str], add: int) -> tuple[Any, Any, list[list[int]]]:
    """(NewTokens with ids after the old ones, the old TokenizerFile, the texts as ids)."""
    from surgeon.vocab.learn import learn
    from surgeon.vocab.tokenizer_files import extend_files
    from surgeon.vocab.tokenizer_json import TokenizerFile
    from surgeon.vocab.tokens import NewTokens, old_pieces

    old = TokenizerFile.open(folder)
    learned = learn(old, texts, add)
    first = old.next_id
    files = extend_files(folder, old, learned.tokens, learned.merges, first)
    tokenizer = files.file.load()
    sequences = [tokenizer.encode(text, add_special_tokens=False).ids for text in texts]
    ids = tuple(range(first, first + len(learned.tokens)))
    return NewTokens(learned.tokens, ids, old_pieces(old, learned.tokens), ()), old, sequences

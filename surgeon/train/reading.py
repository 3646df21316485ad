"""Whether the tokenizer that a run trains with reads texts as its tokenizer.json does."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from surgeon.vocab.probe_texts import HARD_TEXTS


def reading_note(tokenizer: Any, folder: Path) -> str:
    """What to say where AutoTokenizer rebuilds the tokenizer from code and it comes out as another one (of a folder
    whose config.json says qwen2, for one, whatever its tokenizer.json holds); empty where both read the same.

    tokenizer: as AutoTokenizer gives it. Tried on a few dozen hard texts, without special tokens. A program that reads
    tokenizer.json by itself would feed the model other ids.
    """
    path = folder / "tokenizer.json"
    if not path.is_file():
        return ""
    from tokenizers import Tokenizer

    plain = Tokenizer.from_file(str(path))
    plain.no_truncation()
    plain.no_padding()
    differ = [
        text
        for text in HARD_TEXTS
        if tokenizer(text, add_special_tokens=False, verbose=False)["input_ids"]
        != plain.encode(text, add_special_tokens=False).ids
    ]
    if not differ:
        return ""
    return (
        f"AutoTokenizer ({type(tokenizer).__name__}) reads {len(differ)} of {len(HARD_TEXTS)} hard texts otherwise "
        f"than tokenizer.json alone, such as {differ[0][:30]!a}: the run trains on what AutoTokenizer reads"
    )

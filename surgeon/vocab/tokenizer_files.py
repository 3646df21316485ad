"""All files of a tokenizer, extended together: tokenizer.json, tokenizer.model, vocab.json and merges.txt."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

from surgeon.checkpoint.config_json import read_json_object
from surgeon.errors import SurgeonError
from surgeon.vocab.tokenizer_json import TOKENIZER_JSON, Merge, TokenizerFile
from surgeon.vocab.tokenizer_model import TOKENIZER_MODEL, extend_model

VOCAB_JSON, MERGES_TXT = "vocab.json", "merges.txt"


@dataclass(frozen=True)
class TokenizerFiles:
    """What replaces files of the old folder: texts and bytes by name. Files not named here are carried unchanged."""

    file: TokenizerFile
    texts: dict[str, str] = field(default_factory=dict)
    binary: dict[str, bytes] = field(default_factory=dict)


def extend_files(
    folder: Path, old: TokenizerFile, tokens: Sequence[str], merges: Sequence[Merge], first: int | None = None
) -> TokenizerFiles:
    """The extended files of the tokenizer in `folder`; refuses ones that contradict tokenizer.json."""
    new = old.extended(tokens, merges, first)
    out = TokenizerFiles(new, {TOKENIZER_JSON: new.text()})
    if (folder / TOKENIZER_MODEL).is_file():
        out.binary[TOKENIZER_MODEL] = extend_model(folder / TOKENIZER_MODEL, old, tokens, first)
    if (folder / VOCAB_JSON).is_file():
        vocab = read_json_object(folder / VOCAB_JSON)
        for token, i in vocab.items():
            if old.vocab.get(token) != i:
                raise _contradicts(folder / VOCAB_JSON, f"{token!r} has id {i} and {old.vocab.get(token)}")
        out.texts[VOCAB_JSON] = json.dumps(new.model["vocab"], ensure_ascii=False)
    if (folder / MERGES_TXT).is_file():
        text = (folder / MERGES_TXT).read_text(encoding="utf-8")
        head = [line for line in text.split("\n")[:1] if line.startswith("#version")]
        held = [line for line in text.split("\n")[len(head) :] if line]
        if held != [f"{a} {b}" for a, b in old.merges]:
            raise _contradicts(folder / MERGES_TXT, "the merges are others")
        out.texts[MERGES_TXT] = "\n".join([*head, *held, *(f"{a} {b}" for a, b in merges), ""])
    return out


def _contradicts(path: Path, reason: str) -> SurgeonError:
    return SurgeonError(
        f"{path.name} contradicts tokenizer.json: {reason}", str(path), "remove it if tokenizer.json is the one in use"
    )

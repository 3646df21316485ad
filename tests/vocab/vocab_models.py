"""Tiny random models with a tokenizer: a body that an init may run, and a donor that has its new tokens."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

from tiny import build


def body_folder(folder: Path, tokenizer: Path, rows: int, width: int) -> Path:
    """A Llama with `rows` rows and the tokenizer files of `tokenizer`."""
    build("llama", folder, vocab_size=rows, hidden_size=width, num_hidden_layers=2)
    for path in tokenizer.glob("tokenizer*"):
        shutil.copyfile(path, folder / path.name)
    return folder


def donor_folder(folder: Path, tokens: list[str], width: int) -> Path:
    """A Llama with a row for each of `tokens`."""
    build("llama", folder, seed=1, vocab_size=len(tokens), hidden_size=width, num_hidden_layers=1)
    vocab = {token: i for i, token in enumerate(tokens)}
    model = {"type": "BPE", "byte_fallback": True, "vocab": vocab, "merges": []}
    data = {"version": "1.0", "model": model, "added_tokens": [], "pre_tokenizer": None, "normalizer": None}
    (folder / "tokenizer.json").write_text(json.dumps(data), encoding="utf-8")
    return folder

"""Small tokenizers, tokens and vector files for the tests of inits that use static vectors."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from surgeon.vocab.tokenizer_json import TokenizerFile
from surgeon.vocab.tokens import NewTokens


def tokenizer_file(tokens: Sequence[str]) -> TokenizerFile:
    """A tokenizer whose words are its tokens (ids in order); what is no token gives nothing."""
    pre: dict[str, Any] = {"type": "Metaspace", "replacement": "▁", "prepend_scheme": "always", "split": True}
    model = {"type": "BPE", "vocab": {t: i for i, t in enumerate(tokens)}, "merges": [], "ignore_merges": True}
    return TokenizerFile(Path("tokenizer.json"), {"pre_tokenizer": pre, "model": model, "added_tokens": []})


def new_of(
    first: int,
    tokens: Sequence[str],
    pieces: Sequence[Sequence[int]],
    usable: Sequence[int],
    text: Sequence[list[int]] | None = None,
) -> NewTokens:
    return NewTokens(
        tuple(tokens),
        tuple(range(first, first + len(tokens))),
        tuple(tuple(p) for p in pieces),
        tuple(usable),
        None if text is None else lambda: text,
    )


def write_vec(path: Path, vectors: Mapping[str, Sequence[float]] | Mapping[str, np.ndarray]) -> Path:
    """As fastText writes it: a space ends each line."""
    width = len(next(iter(vectors.values())))
    lines = [f"{len(vectors)} {width}"]
    lines += [f"{word} {' '.join(repr(float(x)) for x in vector)} " for word, vector in vectors.items()]
    path.write_text("\n".join(lines) + "\n", encoding="utf-8")
    return path


class Said:
    """A progress that keeps what was said."""

    def __init__(self) -> None:
        self.lines: list[str] = []

    def task(self, name: str, total: int | None, unit: str = "tensors") -> Any:
        from surgeon.progress import SILENT

        return SILENT.task(name, total, unit)

    def say(self, line: str) -> None:
        self.lines.append(line)

"""Real texts and extended tokenizers for the tests of the vocabulary."""

from __future__ import annotations

import json
import shutil
from functools import cache
from pathlib import Path

from surgeon.vocab.learn import Learned, learn
from surgeon.vocab.tokenizer_files import TokenizerFiles, extend_files
from surgeon.vocab.tokenizer_json import TokenizerFile

# every tokenizer with one text, those with two kinds of files with both
CASES = [
    ("models/stories260K", "medical_en"),
    ("models/base", "ta"),
    ("models/base", "medical_en"),
    ("tokenizers/mistral-v1", "ta"),
    ("tokenizers/gpt2", "ta"),
    ("tokenizers/qwen2", "medical_en"),
    ("tokenizers/minimind-6400", "medical_en"),
]
ADD = 120


@cache
def documents(material: Path, name: str, num: int = 30) -> list[str]:
    with (material / "corpora" / f"{name}.valid.jsonl").open(encoding="utf-8") as file:
        return [json.loads(line)["text"] for line, _ in zip(file, range(num), strict=False)]


@cache
def lines(material: Path, name: str, num: int = 100) -> list[str]:
    found = [line for text in documents(material, name) for line in text.split("\n") if line.strip()]
    return found[:num]


@cache
def extended(material: Path, tokenizer: str, target: str) -> tuple[TokenizerFile, Learned, TokenizerFiles]:
    """(old file, what was learned, the extended files) of a real tokenizer on a real text."""
    old = TokenizerFile.open(material / tokenizer)
    learned = learn(old, documents(material, target), ADD)
    return old, learned, extend_files(material / tokenizer, old, learned.tokens, learned.merges)


def write(folder: Path, source: Path, files: TokenizerFiles | None = None, **config: str) -> Path:
    """The tokenizer of `source` in a new folder, with `files` over it and `config` in its tokenizer_config.json."""
    folder.mkdir()
    for path in source.iterdir():
        if path.suffix != ".safetensors":
            shutil.copyfile(path, folder / path.name)
    if files is not None:
        for name, text in files.texts.items():
            (folder / name).write_text(text, encoding="utf-8")
        for name, raw in files.binary.items():
            (folder / name).write_bytes(raw)
    path = folder / "tokenizer_config.json"
    path.write_text(json.dumps(json.loads(path.read_text(encoding="utf-8")) | config), encoding="utf-8")
    return folder

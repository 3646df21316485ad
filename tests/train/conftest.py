"""Tiny random models with the real small tokenizer, and a few real sentences."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from tiny_models import model_of

STORY = (
    "Once upon a time there was a little girl named Lily. She loved to play outside in the park.",
    "The cat sat on the mat and looked at the bird. The bird flew away.",
    "Tom had a red ball.",
    "One day, a big dog came to the house. It was hungry and sad. Lily gave it some food, and the dog was happy.",
    "It rained all day, so they stayed at home and read a book about the sea.",
)


@pytest.fixture
def tiny(tmp_path: Path, stories: Path) -> Callable[..., Path]:
    """Writes a tiny checkpoint of a family: tiny("llama", dtype="bfloat16", tie_word_embeddings=True)."""

    def make(model_type: str, dtype: str = "float32", name: str = "", **changes: Any) -> Path:
        import torch

        folder = tmp_path / (name or f"tiny-{model_type}")
        model_of(model_type, **changes).to(getattr(torch, dtype)).save_pretrained(folder)
        for file in ("tokenizer.json", "tokenizer_config.json"):
            shutil.copyfile(stories / file, folder / file)
        return folder

    return make


@pytest.fixture
def corpus(tmp_path: Path) -> Path:
    path = tmp_path / "texts.jsonl"
    path.write_text("".join(json.dumps({"text": text}) + "\n" for text in STORY), encoding="utf-8")
    return path


@pytest.fixture
def questions(tmp_path: Path) -> Path:
    path = tmp_path / "questions.jsonl"
    records = [
        {"instruction": f"Name {n}.", "input": "", "output": f"It is {n}."} for n in ("a cat", "a dog", "the sun")
    ]
    path.write_text("".join(json.dumps(r) + "\n" for r in records), encoding="utf-8")
    return path


@pytest.fixture
def adapted(tiny: Callable[..., Path], tmp_path: Path) -> str:
    """MODEL+ADAPTER: a tiny llama and a fresh LoRA of rank 4 on all its linear modules."""
    from surgeon.adapters.attach import AttachSettings, plan_attach
    from surgeon.ops.execute import execute

    model, adapter = tiny("llama"), tmp_path / "adapter"
    execute(plan_attach(AttachSettings(model=str(model), out=adapter, rank=4, alpha=8)), adapter)
    return f"{model}+{adapter}"

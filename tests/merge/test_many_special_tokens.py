"""What looks at a whole vocabulary is asked once a model, and not once a token."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from surgeon.merge.plan import MergeSettings, plan_merge
from surgeon.merge.vocabulary import Vocabulary

COUNT = 30


def _with_tokens(model: Path, out: Path, seed: int) -> Path:
    shutil.copytree(model, out)
    table = json.loads((out / "tokenizer.json").read_text())
    first = max([*table["model"]["vocab"].values(), *(t["id"] for t in table["added_tokens"])]) + 1
    flags = dict.fromkeys(("single_word", "lstrip", "rstrip", "normalized"), False) | {"special": True}
    table["added_tokens"] += [{"id": first + k, "content": f"<|s{k}|>", **flags} for k in range(COUNT)]
    (out / "tokenizer.json").write_text(json.dumps(table))
    config = json.loads((out / "config.json").read_text())
    generator, tensors = torch.Generator().manual_seed(seed), load_file(out / "model.safetensors")
    for name, held in tensors.items():
        if held.ndim == 2 and held.shape[0] == config["vocab_size"]:
            more = torch.randn(first + COUNT - held.shape[0], held.shape[1], generator=generator)
            tensors[name] = torch.cat([held, more.to(held.dtype)])
    (out / "config.json").write_text(json.dumps(config | {"vocab_size": first + COUNT}))
    save_file(tensors, out / "model.safetensors", metadata={"format": "pt"})
    return out


def test_vocabularies_are_compared_once(stories: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    base, one, two = (_with_tokens(stories, tmp_path / name, seed) for seed, name in enumerate(("base", "one", "two")))
    calls: list[Any] = []
    plain = Vocabulary.refined_by

    def counted(own: Vocabulary, other: Vocabulary) -> bool:
        calls.append(other)
        return plain(own, other)

    monkeypatch.setattr(Vocabulary, "refined_by", counted)
    plan_merge(MergeSettings(base=str(base), out=tmp_path / "out", add=[f"{one}=0.5", f"{two}=0.5"]))
    assert 0 < len(calls) < COUNT

"""A head that config.json ties is the embedding: it is merged as one matrix, stored once or twice, or made two."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import pytest
import tiny
import torch
from merge_models import merged, same_tensors, tensors, trained
from safetensors.torch import save_file

from surgeon.checkpoint.index import Checkpoint
from surgeon.errors import UsageError
from surgeon.inspect_model import inspect
from surgeon.merge.models import MergeModelsSettings, plan_merge_models
from surgeon.ops.execute import execute

EMBEDDING, HEAD = "model.embed_tokens.weight", "lm_head.weight"


def stored_twice(folder: Path) -> Path:
    held = tensors(folder)
    save_file(held | {HEAD: held[EMBEDDING].clone()}, folder / "model.safetensors", metadata={"format": "pt"})
    return folder


@pytest.fixture
def family(tmp_path: Path) -> dict[str, Path]:
    base = tiny.build("llama", tmp_path / "once", tie_word_embeddings=True)
    twice = stored_twice(shutil.copytree(base, tmp_path / "twice"))
    found = {"once": base, "twice": twice}
    for number, name in enumerate(("one", "other")):
        found[name] = stored_twice(trained(base, tmp_path / name, number, lineage=False))
    return found


def of_models(out: Path, method: str, *models: str, **settings: Any) -> Path:
    execute(plan_merge_models(MergeModelsSettings(method=method, out=out, models=list(models), **settings)), out)
    return out


@pytest.mark.parametrize(
    ("method", "weight"),
    [("dare_linear", "0.5"), ("della", "0.5"), ("task_arithmetic", "0.1,0.9"), ("ties", "0.5,embedding:0.9")],
)
def test_task_vectors(family: dict[str, Path], tmp_path: Path, method: str, weight: str) -> None:
    add: dict[Path, Any] = {family["one"]: weight, family["other"]: 0.3}
    held = tensors(merged(tmp_path / "out", family["twice"], add, method=method))
    assert torch.equal(held[HEAD], held[EMBEDDING])
    assert not torch.equal(held[EMBEDDING], tensors(family["twice"])[EMBEDDING])
    once = tensors(merged(tmp_path / "once-out", family["once"], add, method=method))
    assert HEAD not in once and torch.equal(once[EMBEDDING], held[EMBEDDING])
    assert inspect(Checkpoint.open(tmp_path / "out"))  # which refuses a tied head of other values


def test_models_alone(family: dict[str, Path], tmp_path: Path) -> None:
    words = [f"{family['one']}=0.1,0.9", f"{family['other']}=0.3"]
    held = tensors(of_models(tmp_path / "out", "linear", *words))
    assert torch.equal(held[HEAD], held[EMBEDDING])
    whole = of_models(tmp_path / "whole", "linear", f"{family['one']}=1", f"{family['other']}=0")
    assert same_tensors(whole, family["one"])


def test_stored_once_meets_stored_twice(family: dict[str, Path], tmp_path: Path) -> None:
    once = tensors(of_models(tmp_path / "once-out", "linear", str(family["once"]), str(family["one"])))
    twice = tensors(of_models(tmp_path / "twice-out", "linear", str(family["one"]), str(family["once"])))
    assert HEAD not in once and torch.equal(twice[HEAD], once[EMBEDDING])


def test_it_has_no_values_of_its_own(family: dict[str, Path], tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="no part 'head'"):
        merged(tmp_path / "out", family["twice"], {family["one"]: "0.5,head:0.9"})  # type: ignore[dict-item]
    with pytest.raises(UsageError, match="no part 'head'"):
        of_models(tmp_path / "out", "linear", f"{family['one']}=0.5,head:0.9", str(family["other"]))


@pytest.mark.parametrize("module", ["embed_tokens", "lm_head"])
def test_adapters_that_make_two_matrices_of_it(family: dict[str, Path], tmp_path: Path, module: str) -> None:
    from peft import LoraConfig, get_peft_model
    from transformers import AutoModelForCausalLM

    from surgeon.adapters.fold import FoldSettings, plan_fold

    model = AutoModelForCausalLM.from_pretrained(family["once"])
    config = LoraConfig(r=2, target_modules=[module], init_lora_weights=False)
    get_peft_model(model, config).save_pretrained(tmp_path / "adapter", save_embedding_layers=False)
    word = f"{family['once']}+{tmp_path / 'adapter'}"
    execute(plan_fold(FoldSettings(model=word, out=tmp_path / "folded")), tmp_path / "folded")
    out = of_models(tmp_path / "out", "linear", f"{word}=2")
    assert same_tensors(out, tmp_path / "folded")
    assert inspect(Checkpoint.open(out))["tied"] is False

"""What is given in the place of a model is called by its name, by every way into one, before anything is loaded."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
import torch
from run_cli import surgeon
from safetensors.torch import load_file, save_file

from surgeon.checkpoint.index import SINGLE

WAYS = {
    "evaluate": ("evaluate", "MODEL", "--data", "t.jsonl"),
    "cpt": ("cpt", "MODEL", "out", "--data", "t.jsonl", "--tokens", "64", "--seq-len", "32", "--batch-tokens", "32"),
    "extend-context": ("extend-context", "MODEL", "out", "--rope-base", "500000"),
    "expand-layers": ("expand-layers", "MODEL", "out", "--add", "1"),
    "merge": ("merge-task-vectors", "base", "out", "--add", "MODEL=1.0"),
    "inspect": ("inspect", "MODEL"),
}


@pytest.fixture
def here(stories: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "t.jsonl").write_text('{"text": "Once upon a time there was a little dog."}\n' * 8)
    shutil.copytree(stories, tmp_path / "base")
    return tmp_path


def refused(model: str, way: str) -> str:
    done = surgeon(*(word.replace("MODEL", model) for word in WAYS[way]))
    assert done.code == 1 and not Path("out").exists() and "unexpected" not in done.err, done.err
    return " ".join(done.err.split())


@pytest.mark.parametrize("way", WAYS)
def test_a_pickle_is_not_opened(here: Path, way: str) -> None:
    torch.save(load_file(here / "base" / SINGLE), here / "base" / "pytorch_model.bin")
    (Path(shutil.copytree(here / "base", here / "pickled")) / SINGLE).unlink()
    assert "in a pickle (pytorch_model.bin)" in refused("pickled", way)


@pytest.mark.parametrize("way", [w for w in WAYS if w != "inspect"])
@pytest.mark.parametrize("weights", ["adapter_model.safetensors", "adapter_model.bin"])
def test_an_adapter_is_told_to_be_put_behind_its_model(here: Path, way: str, weights: str) -> None:
    adapter = here / "adapter"
    adapter.mkdir()
    (adapter / "adapter_config.json").write_text(json.dumps({"peft_type": "LORA", "r": 2}))
    save_file({"base_model.model.x.lora_A.weight": torch.zeros(2, 2)}, adapter / weights)
    assert "this is a PEFT adapter, not a model" in (found := refused("adapter", way)) and "MODEL+ADAPTER" in found


@pytest.mark.parametrize("way", ["evaluate", "cpt", "inspect"])
def test_gguf_is_named(here: Path, way: str) -> None:
    (here / "gguf").mkdir()
    (here / "gguf" / "model-Q4_K_M.gguf").write_bytes(b"GGUF")
    for model in ("gguf", "gguf/model-Q4_K_M.gguf"):
        assert "GGUF file (model-Q4_K_M.gguf)" in refused(model, way)


@pytest.mark.parametrize("way", ["evaluate", "expand-layers"])
def test_shards_without_their_index(here: Path, way: str) -> None:
    (here / "base" / SINGLE).rename(here / "base" / "model-00001-of-00001.safetensors")
    assert "without the model.safetensors.index.json" in refused("base", way)


@pytest.mark.parametrize("way", ["evaluate", "cpt"])
def test_no_tokenizer_is_said_so(here: Path, way: str) -> None:
    for path in (here / "base").glob("tokenizer*"):
        path.unlink()
    assert "there is no tokenizer (" in refused("base", way)


@pytest.mark.parametrize("way", ["evaluate", "cpt"])
def test_a_configuration_that_contradicts_itself_is_a_refusal(here: Path, way: str) -> None:
    path = here / "base" / "config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"num_attention_heads": 9}))
    assert "The hidden size (64) is not a multiple" in refused("base", way)


def test_a_damaged_shard_is_named_by_evaluate_as_by_others(here: Path) -> None:
    shard = here / "base" / SINGLE
    shard.write_bytes(shard.read_bytes()[:-100])
    assert "is damaged: it is truncated" in refused("base", "evaluate")

"""Adapters on experts: one tensor a block in transformers, one matrix an expert in most checkpoints."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import tiny
import torch
from adapter_models import attach, close, fold, logits, plain, trained, with_peft
from safetensors.torch import load_file, save_file

from surgeon.checkpoint.index import Checkpoint
from surgeon.errors import SurgeonError, UsageError

# stored expert by expert, and as one tensor; gpt_oss and llama4 hold them the other way round
FAMILIES = [
    "mixtral", "qwen3_moe", "qwen2_moe", "gpt_oss", "deepseek_v3", "llama4_text", "glm4_moe", "olmoe", "ernie4_5_moe",
    "granitemoe", "granitemoehybrid", "qwen3_next",
]  # fmt: skip


@pytest.mark.parametrize("family", FAMILIES)
def test_folded_experts_are_what_peft_computes(family: str, tmp_path: Path) -> None:
    model = tiny.build(family, tmp_path / "model")
    adapter = attach(model, tmp_path / "adapter", targets="experts", rank=3, alpha=6)
    base = logits(plain(model))
    moved = with_peft(model, adapter)
    assert torch.equal(logits(moved), base)
    trained(moved).save_pretrained(tmp_path / "later")
    computed = logits(moved)
    assert float((computed - base).abs().max()) > 1e-3
    fold(model, tmp_path / "later", tmp_path / "folded")
    assert close(logits(plain(tmp_path / "folded")), computed)
    before, after = load_file(model / "model.safetensors"), load_file(tmp_path / "folded" / "model.safetensors")
    assert before.keys() == after.keys()
    changed = [name for name in before if not torch.equal(before[name], after[name])]
    assert changed and all("expert" in name or "put_linear" in name for name in changed)


@pytest.mark.parametrize("family", ["mixtral", "qwen3_moe"])
def test_a_checkpoint_with_fused_experts(family: str, tmp_path: Path) -> None:
    """As transformers holds them in memory: the same adapter, the same logits."""
    model = tiny.build(family, tmp_path / "model")
    fused = tmp_path / "fused"
    fused.mkdir()
    state = {n: t.contiguous() for n, t in plain(model).state_dict().items()}
    save_file(state, fused / "model.safetensors", {"format": "pt"})
    (fused / "config.json").write_bytes((model / "config.json").read_bytes())
    moved = trained(with_peft(model, attach(model, tmp_path / "adapter", targets="experts", rank=2)))
    moved.save_pretrained(tmp_path / "later")
    fold(fused, tmp_path / "later", tmp_path / "folded")
    assert close(logits(plain(tmp_path / "folded")), logits(moved))


def test_all_linear_of_peft_itself_with_its_doubled_rank(tmp_path: Path) -> None:
    """PEFT turns all-linear of such a model into parameters, the router among them, and doubles a rank."""
    from peft import LoraConfig, get_peft_model

    model = tiny.build("qwen3_moe", tmp_path / "model")
    moved = trained(get_peft_model(plain(model), LoraConfig(r=4, target_modules="all-linear")).eval())
    moved.save_pretrained(tmp_path / "adapter")
    fold(model, tmp_path / "adapter", tmp_path / "folded")
    assert close(logits(plain(tmp_path / "folded")), logits(moved))


def test_attention_and_experts_of_some_blocks(tmp_path: Path) -> None:
    model = tiny.build("mixtral", tmp_path / "model")
    adapter = attach(model, tmp_path / "adapter", preset="moe", blocks="1,3", rank=2)
    config = json.loads((adapter / "adapter_config.json").read_text())
    assert config["target_parameters"] == [
        f"model.layers.{b}.mlp.experts.{p}" for b in (1, 3) for p in ("gate_up_proj", "down_proj")
    ]
    held = load_file(adapter / "adapter_model.safetensors")
    assert {name.split(".")[4] for name in held} == {"1", "3"}
    moved = trained(with_peft(model, adapter))
    moved.save_pretrained(tmp_path / "later")
    fold(model, tmp_path / "later", tmp_path / "folded")
    assert close(logits(plain(tmp_path / "folded")), logits(moved))


def test_a_preset_gives_way_to_what_is_said(tmp_path: Path) -> None:
    model = tiny.build("mixtral", tmp_path / "model")
    lineage = Checkpoint.open(attach(model, tmp_path / "a", preset="moe")).lineage
    assert lineage is not None and lineage.adapter is not None
    assert lineage.settings["rank"] == 8 and "experts" in lineage.adapter["roles"]
    lineage = Checkpoint.open(attach(model, tmp_path / "b", preset="moe", targets="attention.q")).lineage
    assert lineage is not None and lineage.adapter is not None
    assert lineage.adapter["roles"] == ["attention.q"]


@pytest.mark.parametrize("kind", ["dora", "pissa", "vera"])
def test_kinds_that_peft_has_not_for_experts_are_refused(kind: str, tmp_path: Path) -> None:
    model = tiny.build("mixtral", tmp_path / "model")
    with pytest.raises((SurgeonError, UsageError), match="experts"):
        attach(model, tmp_path / "adapter", kind=kind, targets="experts", rank=2)
    with pytest.raises(SurgeonError, match="no dropout on experts"):
        attach(model, tmp_path / "adapter", targets="experts", dropout=0.1)


def test_a_dense_model_has_no_experts(stories: Path, tmp_path: Path) -> None:
    with pytest.raises(SurgeonError, match="have no experts"):
        attach(stories, tmp_path / "adapter", targets="experts")
    with pytest.raises(UsageError, match=r"attention\.o"):
        attach(stories, tmp_path / "adapter", targets="attention.oo")

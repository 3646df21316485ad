"""Folding agrees with peft's merge_and_unload; what was not adapted keeps its bytes."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import tiny
import torch
from safetensors.torch import load_file, save_file

from surgeon.adapters.fold import FoldSettings, plan_fold
from surgeon.checkpoint.index import Checkpoint
from surgeon.errors import SurgeonError, UsageError
from surgeon.ops.execute import execute


def fold(model: Path, adapter: Path, out: Path, **settings: Any) -> Path:
    execute(plan_fold(FoldSettings(model=f"{model}+{adapter}", out=out, **settings)), out)
    return out


def peft_adapter(model: Path, out: Path, **config: Any) -> Any:
    """A LoRA folder saved by peft with random factors; returns the model with it."""
    from peft import LoraConfig, get_peft_model
    from transformers import AutoModelForCausalLM

    base = AutoModelForCausalLM.from_pretrained(model)
    with_adapter = get_peft_model(base, LoraConfig(task_type="CAUSAL_LM", **config))
    generator = torch.Generator().manual_seed(3)
    with torch.no_grad():
        for name, parameter in with_adapter.named_parameters():
            if "lora_" in name:
                parameter.copy_(torch.randn(parameter.shape, generator=generator) * 0.1)
    with_adapter.save_pretrained(out)
    return with_adapter


CASES: list[tuple[str, dict[str, Any]]] = [
    ("llama", {"r": 4, "lora_alpha": 8, "target_modules": ["q_proj", "down_proj"]}),
    ("llama_bias", {"r": 4, "lora_alpha": 8, "use_rslora": True, "target_modules": "all-linear"}),
    ("gpt2", {"r": 3, "lora_alpha": 5, "target_modules": ["c_attn", "c_proj"], "fan_in_fan_out": True}),
    (
        "qwen3",
        {
            "r": 4,
            "lora_alpha": 4,
            "target_modules": ["v_proj", "up_proj", "o_proj"],
            "rank_pattern": {"v_proj": 2, r"layers\.1\.mlp\.up_proj": 6},
            "alpha_pattern": {"o_proj": 9},
            "use_rslora": True,
        },
    ),
    ("qwen3_moe", {"r": 4, "target_modules": ["q_proj", "o_proj"]}),
]


@pytest.mark.parametrize(("family", "config"), CASES, ids=[c[0] for c in CASES])
def test_folded_is_merge_and_unload(family: str, config: dict[str, Any], tmp_path: Path) -> None:
    model = tiny.build(family, tmp_path / "model")
    merged = peft_adapter(model, tmp_path / "adapter", **config).merge_and_unload()
    merged.save_pretrained(tmp_path / "theirs")
    out = fold(model, tmp_path / "adapter", tmp_path / "ours")
    ours, theirs = load_file(out / "model.safetensors"), load_file(tmp_path / "theirs" / "model.safetensors")
    before = load_file(model / "model.safetensors")
    assert ours.keys() == theirs.keys()
    changed = [n for n in ours if not torch.equal(ours[n], before[n])]
    assert changed
    for name in ours:
        torch.testing.assert_close(ours[name], theirs[name], rtol=0, atol=1e-6)


def test_bfloat16_is_rounded_once_from_float64(tmp_path: Path) -> None:
    model = tiny.build("llama", tmp_path / "model", dtype="bfloat16")
    peft_adapter(model, tmp_path / "adapter", r=4, lora_alpha=8, target_modules=["q_proj"])
    ours = load_file(fold(model, tmp_path / "adapter", tmp_path / "ours") / "model.safetensors")
    weight = load_file(model / "model.safetensors")["model.layers.1.self_attn.q_proj.weight"]
    factors = load_file(tmp_path / "adapter" / "adapter_model.safetensors")
    name = "base_model.model.model.layers.1.self_attn.q_proj"
    b, a = factors[f"{name}.lora_B.weight"].double(), factors[f"{name}.lora_A.weight"].double()
    exact = weight.double() + 2 * (b @ a)
    found = ours["model.layers.1.self_attn.q_proj.weight"]
    assert found.dtype == torch.bfloat16
    error = (found.double() - exact).abs()
    one_ulp = (
        torch.nextafter(found.abs(), torch.tensor(torch.inf, dtype=torch.bfloat16)).double() - found.abs().double()
    )
    assert (error <= one_ulp / 2 * 1.0001).all()


def test_a_fresh_adapter_folds_to_the_model_itself(stories: Path, tmp_path: Path) -> None:
    from surgeon.adapters.attach import AttachSettings, plan_attach

    adapter = tmp_path / "adapter"
    execute(plan_attach(AttachSettings(model=str(stories), out=adapter)), adapter)
    out = fold(stories, adapter, tmp_path / "out")
    assert Checkpoint.open(out).digest == Checkpoint.open(stories).digest
    lineage = Checkpoint.open(out).lineage
    assert lineage is not None and [p.role for p in lineage.parents] == ["model", "adapter"]


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"layer_replication": [[0, 2], [1, 4]]}, "layer_replication"),
        ({"alora_invocation_tokens": [5]}, "certain tokens"),
        ({"peft_type": "PREFIX_TUNING"}, "changes no weights"),
        ({"init_lora_weights": "loftq"}, "its start is not there"),
        ({"r": 5}, "rank 5"),
        ({"peft_type": None}, "names no peft_type"),
    ],
)
def test_what_is_no_update_of_weights_is_refused(
    stories: Path, tmp_path: Path, change: dict[str, Any], words: str
) -> None:
    adapter = tmp_path / "adapter"
    peft_adapter(stories, adapter, r=4, target_modules=["q_proj"])
    path = adapter / "adapter_config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | change))
    with pytest.raises(SurgeonError, match=words):
        plan_fold(FoldSettings(model=f"{stories}+{adapter}", out=tmp_path / "out"))


def test_an_adapter_of_another_model_is_refused(stories: Path, tmp_path: Path) -> None:
    other = tiny.build("llama", tmp_path / "other")
    peft_adapter(other, tmp_path / "adapter", r=4, target_modules=["q_proj"])
    with pytest.raises(SurgeonError, match="q_proj"):
        plan_fold(FoldSettings(model=f"{stories}+{tmp_path / 'adapter'}", out=tmp_path / "out"))
    tensors = load_file(tmp_path / "adapter" / "adapter_model.safetensors")
    strange = {n.replace("q_proj", "x_proj"): t for n, t in tensors.items()}
    save_file(strange, tmp_path / "adapter" / "adapter_model.safetensors")
    with pytest.raises(SurgeonError, match="x_proj"):
        plan_fold(FoldSettings(model=f"{other}+{tmp_path / 'adapter'}", out=tmp_path / "out"))
    with pytest.raises(UsageError, match="no adapter"):
        plan_fold(FoldSettings(model=str(stories), out=tmp_path / "out"))


@pytest.mark.parametrize(("at", "refused"), [([1], True), ([3], False)])
def test_an_adapter_from_before_an_expansion_is_told_by_its_blocks(
    tmp_path: Path, at: list[int], refused: bool
) -> None:
    """One that PEFT saved knows no lineage: its blocks 2 and 3 would land on those that were 1 and 2."""
    from surgeon.expand.plan import ExpandSettings, plan_expand

    model, deep = tiny.build("llama", tmp_path / "model"), tmp_path / "deep"
    execute(plan_expand(ExpandSettings(model=str(model), out=deep, at=at)), deep)
    peft_adapter(model, tmp_path / "adapter", r=2, target_modules=["q_proj"])
    if not refused:  # a block at the end moves no other
        fold(deep, tmp_path / "adapter", tmp_path / "out")
        return
    config = tmp_path / "adapter" / "adapter_config.json"  # a name that says nothing: it is all there is to go by
    config.write_text(json.dumps(json.loads(config.read_text()) | {"base_model_name_or_path": "a/stranger"}))
    with pytest.raises(SurgeonError, match="blocks 0 to 3, all that the model had before"):
        fold(deep, tmp_path / "adapter", tmp_path / "out")
    fold(deep, tmp_path / "adapter", tmp_path / "out", any_base=True)
    peft_adapter(deep, tmp_path / "some", r=2, target_modules=["q_proj"], layers_to_transform=[0, 2])
    fold(deep, tmp_path / "some", tmp_path / "of-some")


def test_a_checkpoint_without_the_prefix_of_its_base_model(tmp_path: Path) -> None:
    """GPT-2 of the hub is stored without `transformer.`; the adapter is for the model that transformers builds."""
    from surgeon.adapters.attach import AttachSettings, plan_attach

    model = tiny.build("gpt2", tmp_path / "model")
    held = load_file(model / "model.safetensors")
    short = {n.removeprefix("transformer."): t for n, t in held.items() if n != "lm_head.weight"}
    save_file(short, model / "model.safetensors", metadata={"format": "pt"})
    fresh = tmp_path / "fresh"
    execute(plan_attach(AttachSettings(model=str(model), out=fresh, rank=2, targets="attention.o")), fresh)
    assert "base_model.model.transformer.h.3.attn.c_proj.lora_B.weight" in load_file(
        fresh / "adapter_model.safetensors"
    )
    trained = peft_adapter(model, tmp_path / "adapter", r=2, target_modules=["c_attn"], fan_in_fan_out=True)
    merged = trained.merge_and_unload().state_dict()
    ours = load_file(fold(model, tmp_path / "adapter", tmp_path / "ours") / "model.safetensors")
    assert ours.keys() == short.keys()
    for name, tensor in ours.items():
        torch.testing.assert_close(tensor, merged[f"transformer.{name}"], rtol=0, atol=1e-6)

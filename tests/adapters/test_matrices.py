"""Adapters on the embedding, the head, rows and biases: what PEFT computes unmerged is what is folded."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import tiny
import torch
from adapter_models import attach, close, fold, logits, plain, trained, with_peft
from safetensors.torch import load_file

from surgeon.checkpoint.index import Checkpoint
from surgeon.errors import SurgeonError, UsageError
from surgeon.ops.execute import execute

BOTH = ["embed_tokens", "lm_head"]


def peft_trained(model: Path, out: Path, **config: Any) -> Any:
    """An adapter made by PEFT alone, trained by chance and saved; the model with it."""
    from peft import LoraConfig, get_peft_model

    given = {"r": 4, "lora_alpha": 8, "target_modules": ["q_proj", "down_proj"]} | config
    moved = trained(get_peft_model(plain(model), LoraConfig(task_type="CAUSAL_LM", **given)).eval())
    moved.save_pretrained(out)
    return moved


CASES: dict[str, dict[str, Any]] = {
    "embedding": {"target_modules": ["q_proj", "embed_tokens"]},
    "head": {"target_modules": ["q_proj", "lm_head"]},
    "both": {"target_modules": ["q_proj", *BOTH]},
    "both, tied by PEFT": {"target_modules": ["q_proj", *BOTH], "ensure_weight_tying": True},
    "rows": {"trainable_token_indices": [9, 5, 90]},
    "rows of both": {"trainable_token_indices": {"embed_tokens": [5, 7], "lm_head": [5, 7]}},
    "saved": {"modules_to_save": BOTH},
    "saved, tied by PEFT": {"modules_to_save": BOTH, "ensure_weight_tying": True},
    "saved embedding": {"modules_to_save": ["embed_tokens"]},
}


@pytest.mark.parametrize("family", ["llama", "qwen3"])
@pytest.mark.parametrize("case", CASES)
def test_folded_is_what_was_computed_unmerged(case: str, family: str, tmp_path: Path) -> None:
    """qwen3 is tied: where the two matrices end up different, the folded model has two."""
    model = tiny.build(family, tmp_path / "model")
    moved = peft_trained(model, tmp_path / "adapter", **CASES[case])
    computed = logits(moved)
    assert torch.equal(logits(with_peft(model, tmp_path / "adapter")), computed)
    fold(model, tmp_path / "adapter", tmp_path / "folded")
    assert close(logits(plain(tmp_path / "folded")), computed)
    config = json.loads((tmp_path / "folded" / "config.json").read_text())
    same = case in ("rows", "rows of both", "both, tied by PEFT", "saved, tied by PEFT")
    assert config["tie_word_embeddings"] is (family == "qwen3" and same)
    held = load_file(tmp_path / "folded" / "model.safetensors")
    assert ("lm_head.weight" in held) is not config["tie_word_embeddings"]


def test_a_tied_update_is_added_once(tmp_path: Path) -> None:
    """W + delta, where PEFT's own merge gives W + 2 delta."""
    model = tiny.build("qwen3", tmp_path / "model")
    options = {"target_modules": BOTH, "ensure_weight_tying": True}
    moved = peft_trained(model, tmp_path / "adapter", **options)
    weight = load_file(model / "model.safetensors")["model.embed_tokens.weight"].double()
    layer = moved.base_model.model.model.embed_tokens
    with torch.no_grad():
        delta = layer.get_delta_weight("default").double()
    fold(model, tmp_path / "adapter", tmp_path / "folded")
    found = load_file(tmp_path / "folded" / "model.safetensors")["model.embed_tokens.weight"].double()
    torch.testing.assert_close(found, weight + delta, rtol=0, atol=1e-7)
    theirs = moved.merge_and_unload().model.embed_tokens.weight.detach().double()
    torch.testing.assert_close(theirs, weight + 2 * delta, rtol=0, atol=1e-6)


@pytest.mark.parametrize(
    "config", [{"bias": "all"}, {"bias": "lora_only"}, {"lora_bias": True, "target_modules": "all-linear"}]
)
def test_biases(config: dict[str, Any], tmp_path: Path) -> None:
    model = tiny.build("llama_bias", tmp_path / "model")
    computed = logits(peft_trained(model, tmp_path / "adapter", **config))
    fold(model, tmp_path / "adapter", tmp_path / "folded")
    assert close(logits(plain(tmp_path / "folded")), computed)


def extended(model: Path, out: Path) -> Path:
    from surgeon.vocab.plan import plan_extend_vocab
    from surgeon.vocab.settings import ExtendVocabSettings

    words = out.with_suffix(".txt")
    words.write_text("hippopotamus\nrhinoceros\n")
    execute(plan_extend_vocab(ExtendVocabSettings(model=str(model), out=out, tokens=words)), out)
    return out


@pytest.mark.parametrize("untie", [False, True])
def test_new_rows_beside_an_adapter(stories: Path, tmp_path: Path, untie: bool) -> None:
    """The preset new-tokens trains the rows that the lineage calls new, in both matrices where there are two."""
    model = stories
    if untie:
        from transformers import AutoModelForCausalLM

        loaded = AutoModelForCausalLM.from_pretrained(stories)
        loaded.lm_head.weight = torch.nn.Parameter(loaded.lm_head.weight.detach().clone())
        loaded.config.tie_word_embeddings = False
        loaded.save_pretrained(tmp_path / "untied")
        for name in ("tokenizer.json", "tokenizer.model", "tokenizer_config.json"):
            shutil.copy(stories / name, tmp_path / "untied")
        model = tmp_path / "untied"
    wide = extended(model, tmp_path / "wide")
    rows = list(range(512, Checkpoint.open(wide).config["vocab_size"]))
    adapter = attach(wide, tmp_path / "adapter", preset="new-tokens", rank=2)
    config = json.loads((adapter / "adapter_config.json").read_text())
    names = {"model.embed_tokens", "lm_head"} if untie else {"model.embed_tokens"}
    assert config["trainable_token_indices"] == dict.fromkeys(names, rows)
    moved = with_peft(wide, adapter)
    assert torch.equal(logits(moved), logits(plain(wide)))
    trained(moved).save_pretrained(tmp_path / "later")
    fold(wide, tmp_path / "later", tmp_path / "folded")
    assert close(logits(plain(tmp_path / "folded")), logits(moved))
    before, after = (Checkpoint.open(p) for p in (wide, tmp_path / "folded"))
    assert before.config["tie_word_embeddings"] == after.config["tie_word_embeddings"]
    old, new = (load_file(p / "model.safetensors") for p in (wide, tmp_path / "folded"))
    for name in ("model.embed_tokens.weight", "lm_head.weight"):
        if name in old:
            assert torch.equal(old[name][:512], new[name][:512])
            assert not torch.equal(old[name][512:], new[name][512:])


def test_rows_need_rows_that_are_new(stories: Path, tmp_path: Path) -> None:
    with pytest.raises(SurgeonError, match="no new rows"):
        attach(stories, tmp_path / "adapter", new_rows=True)
    wide = extended(stories, tmp_path / "wide")
    with pytest.raises(UsageError, match="cannot train rows"):
        attach(wide, tmp_path / "adapter", new_rows=True, kind="vera", rank=2)


def test_the_embedding_and_the_head_of_an_untied_model(tmp_path: Path) -> None:
    model = tiny.build("llama", tmp_path / "model")
    adapter = attach(model, tmp_path / "adapter", targets="embedding,head,attention.v", kind="dora", rank=2)
    moved = with_peft(model, adapter)
    assert close(logits(moved), logits(plain(model)))
    trained(moved).save_pretrained(tmp_path / "later")
    fold(model, tmp_path / "later", tmp_path / "folded")
    assert close(logits(plain(tmp_path / "folded")), logits(moved))


def test_new_rows_are_rounded_as_the_rest_is(stories: Path, tmp_path: Path) -> None:
    """--rounding stochastic of rows in float32 that the model stores in bfloat16: a neighbour, the row on average."""
    from transformers import AutoModelForCausalLM

    AutoModelForCausalLM.from_pretrained(stories, dtype=torch.bfloat16).save_pretrained(tmp_path / "half")
    for name in ("tokenizer.json", "tokenizer.model", "tokenizer_config.json"):
        shutil.copy(stories / name, tmp_path / "half")
    wide = extended(tmp_path / "half", tmp_path / "wide")
    trained(with_peft(wide, attach(wide, tmp_path / "adapter", preset="new-tokens", rank=2))).save_pretrained(
        tmp_path / "later"
    )
    held = load_file(tmp_path / "later" / "adapter_model.safetensors")
    (rows,) = (t.double() for name, t in held.items() if "trainable_tokens" in name or "token_adapter" in name)
    once = fold(wide, tmp_path / "later", tmp_path / "once").to_json()["rounding"]
    matrix = load_file(tmp_path / "once" / "model.safetensors")["model.embed_tokens.weight"]
    assert torch.equal(matrix[512:], rows.bfloat16())
    twice = fold(
        wide, tmp_path / "later", tmp_path / "twice", weight=0.5, add=[f"{tmp_path / 'later'}=0.5"]
    ).to_json()["rounding"]
    # the same change by one adapter or by two halves of it; all of the rows are looked at
    name = "model.embed_tokens.weight"
    assert once["parts"][name]["changed"] == rows.numel() == twice["parts"][name]["changed"]
    assert once["parts"][name]["relative_error"] == pytest.approx(twice["parts"][name]["relative_error"], rel=1e-6)
    assert once["kept"] == pytest.approx(twice["kept"], rel=1e-6) and once["elements"] == twice["elements"]
    found = []
    for seed in range(16):
        fold(wide, tmp_path / "later", tmp_path / f"out{seed}", rounding="stochastic", seed=seed)
        matrix = load_file(tmp_path / f"out{seed}" / "model.safetensors")["model.embed_tokens.weight"]
        assert torch.equal(matrix[:512], load_file(wide / "model.safetensors")["model.embed_tokens.weight"][:512])
        found.append(matrix[512:].double())
    step = 2.0 ** (torch.frexp(rows)[1] - 8).double()  # between neighbours in bfloat16, of 8 bits
    assert all(bool(((f - rows).abs() < step).all()) for f in found)
    assert any(not torch.equal(f, found[0]) for f in found)
    nearest = (rows.bfloat16().double() - rows) / step
    mean = (torch.stack(found).mean(0) - rows) / step
    assert float((mean * nearest).mean()) < 0.25 * float((nearest * nearest).mean())

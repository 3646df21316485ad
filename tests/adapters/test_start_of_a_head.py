"""Kinds that take their start out of the weights, on the head: PEFT saves what it left of the head beside them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import tiny
import torch
from adapter_models import attach, close, fold, logits, plain, trained
from safetensors.torch import load_file, save_file
from test_kinds import keep_start

from surgeon.adapters.load import put_on
from surgeon.errors import SurgeonError

HEAD = "base_model.model.lm_head.base_layer.weight"


def peft_on_the_head(model: Path, out: Path, **settings: Any) -> torch.Tensor:
    """What PEFT computes with a trained adapter of its own making, which is saved to `out`."""
    from peft import LoraConfig, get_peft_model

    config = LoraConfig(r=4, target_modules=["q_proj", "lm_head"], **settings)
    wrapped = trained(get_peft_model(plain(model), config)).eval()
    wrapped.save_pretrained(out)
    assert HEAD in load_file(out / "adapter_model.safetensors")
    return logits(wrapped)


@pytest.mark.parametrize("family", ["llama", "qwen3"])  # the second is tied: what is left is its embedding, too
@pytest.mark.parametrize("settings", [{"init_lora_weights": "pissa"}, {"init_lora_weights": "olora"}, {}])
def test_it_is_taken_out_once(family: str, settings: dict[str, Any], tmp_path: Path) -> None:
    model = tiny.build(family, tmp_path / "model")
    computed = peft_on_the_head(model, tmp_path / "adapter", **settings)
    fold(model, tmp_path / "adapter", tmp_path / "folded")
    assert close(logits(plain(tmp_path / "folded")), computed)


def test_the_rounding_is_of_what_the_head_was(tmp_path: Path) -> None:
    """Not of what PEFT left of it."""
    model = tiny.build("llama", tmp_path / "model", "bfloat16")
    peft_on_the_head(model, tmp_path / "adapter", init_lora_weights="pissa", lora_alpha=8)
    part = fold(model, tmp_path / "adapter", tmp_path / "out").found["rounding"]["parts"]["lm_head.weight"]
    before, after = (load_file(path / "model.safetensors")["lm_head.weight"] for path in (model, tmp_path / "out"))
    held = {
        name: value.double() for name, value in load_file(tmp_path / "adapter" / "adapter_model.safetensors").items()
    }
    low, high = (held[f"base_model.model.lm_head.lora_{letter}.weight"] for letter in "AB")
    exact = held[HEAD] + 8 / 4 * high @ low
    delta, stored = exact - before.double(), after.double() - before.double()
    assert part["relative_error"] == pytest.approx(float((stored - delta).norm() / delta.norm()), rel=1e-6)
    assert part["kept"] == pytest.approx(float((stored * delta).sum() / delta.square().sum()), rel=1e-6)


def test_with_the_norms_of_dora(tmp_path: Path) -> None:
    model = tiny.build("llama", tmp_path / "model")
    computed = peft_on_the_head(model, tmp_path / "adapter", init_lora_weights="pissa", use_dora=True)
    fold(model, tmp_path / "adapter", tmp_path / "folded")
    assert close(logits(plain(tmp_path / "folded")), computed)


@pytest.mark.parametrize("kind", ["pissa", "olora"])
def test_nor_with_the_start_that_is_kept(kind: str, tmp_path: Path) -> None:
    """Attached here, trained, and saved by PEFT."""
    model = tiny.build("llama", tmp_path / "model")
    adapter = attach(model, tmp_path / "adapter", kind=kind, rank=4, targets="attention.q,head")
    moved = trained(put_on(plain(model), model, adapter, trainable=True))
    moved.save_pretrained(tmp_path / "later")
    keep_start(adapter, tmp_path / "later")
    computed = logits(moved)
    assert torch.equal(logits(put_on(plain(model), model, tmp_path / "later")), computed)
    fold(model, tmp_path / "later", tmp_path / "folded")
    assert close(logits(plain(tmp_path / "folded")), computed)


def test_a_tied_head_without_what_was_left_is_refused(tmp_path: Path) -> None:
    model = tiny.build("qwen3", tmp_path / "model")
    peft_on_the_head(model, tmp_path / "adapter", init_lora_weights="pissa")
    weights = tmp_path / "adapter" / "adapter_model.safetensors"
    save_file({name: t for name, t in load_file(weights).items() if name != HEAD}, weights)
    with pytest.raises(SurgeonError, match="took its start out of the head, which is the embedding too"):
        fold(model, tmp_path / "adapter", tmp_path / "folded")

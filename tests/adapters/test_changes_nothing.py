"""Whether an adapter changes nothing: by its factors, by its start, or by its model, and never by a part of it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import tiny
import torch
from adapter_models import attach, logits, plain

from surgeon.adapters.inspect import adapter_is_identity, inspect_adapter, inspect_on_model
from surgeon.verify import verify

# what is trained beside factors B that stay zero: setting of PEFT's LoRA, a mark of the parameters that move
BESIDE: dict[str, tuple[dict[str, Any], str]] = {
    "rows": ({"trainable_token_indices": [5]}, "trainable_tokens"),
    "a saved module": ({"modules_to_save": ["lm_head"]}, "modules_to_save"),
    "biases": ({"bias": "all"}, "bias"),
    "a bias of its own": ({"lora_bias": True}, "lora_B.default.bias"),
    "norms of DoRA": ({"use_dora": True}, "magnitude"),
}


@pytest.mark.parametrize("case", BESIDE)
def test_what_moves_beside_factors_of_zero_is_seen(case: str, tmp_path: Path) -> None:
    from peft import LoraConfig, get_peft_model

    model = tiny.build("llama_bias", tmp_path / "model")
    settings, mark = BESIDE[case]
    wrapped = get_peft_model(plain(model), LoraConfig(r=2, target_modules=["q_proj"], **settings)).eval()
    wrapped.save_pretrained(tmp_path / "fresh")
    assert inspect_on_model(model, tmp_path / "fresh")["changes_nothing"] is True
    with torch.no_grad():
        for name, parameter in wrapped.named_parameters():
            if parameter.requires_grad and mark in name:
                parameter.add_(0.01)
    wrapped.save_pretrained(tmp_path / "moved")
    assert not torch.equal(logits(wrapped), logits(plain(model)))
    assert inspect_on_model(model, tmp_path / "moved")["changes_nothing"] is False
    assert inspect_adapter(tmp_path / "moved")["changes_nothing"] is None  # only the model tells
    assert "only the model tells" in adapter_is_identity(tmp_path / "moved")[1]
    assert adapter_is_identity(tmp_path / "moved", model)[0] is False


@pytest.mark.parametrize("name", ["ia3", "loha", "hra"])
def test_a_fresh_one_of_any_kind_is_verified(name: str, tmp_path: Path) -> None:
    model = tiny.build("llama", tmp_path / "model")
    config = '{"feedforward_modules": ["down_proj"]}' if name == "ia3" else '{"r": 4}'
    targets = "attention.q,mlp.down"
    option = {"type": name, "config": config}
    adapter = attach(model, tmp_path / "adapter", kind="peft", targets=targets, option=option)
    assert verify(adapter, function=True)["holds"]

"""Adapters that PEFT made with settings of its own: what is folded is what it computes with the whole of them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import tiny
import torch
from adapter_models import close, fold, logits, plain

LINEAR = ["q_proj", "v_proj", "o_proj", "up_proj", "down_proj"]
# what is false, zero or none here is not what PEFT takes where nothing is said
CASES: dict[str, tuple[str, str, dict[str, Any]]] = {
    "oft, exact inverse": ("llama_bias", "OFT", {"oft_block_size": 8, "use_cayley_neumann": False}),
    "oft by its rank": ("llama_bias", "OFT", {"r": 4, "oft_block_size": 0}),
    "boft by its number": ("llama_bias", "BOFT", {"boft_block_num": 4, "boft_block_size": 0}),
    "dora of scale zero": ("llama_bias", "LORA", {"r": 4, "lora_alpha": 0, "use_dora": True}),
    "a bias of its own on saved ones": ("llama_bias", "LORA", {"r": 4, "lora_bias": True, "bias": "all"}),
    "inputs by an expression": (
        "llama_bias",
        "IA3",
        {"target_modules": r".*\.(q_proj|o_proj|down_proj)", "feedforward_modules": r".*\.(o_proj|down_proj)"},
    ),
    "norms": ("llama_bias", "LN_TUNING", {"target_modules": ["input_layernorm", "norm"]}),
    "norms with biases": ("gpt2", "LN_TUNING", {"target_modules": ["ln_1", "ln_f"]}),
    "a saved module among all biases": (
        "gpt2",
        "LORA",
        {"r": 4, "target_modules": ["c_attn"], "modules_to_save": ["ln_f"], "bias": "all"},
    ),
}


@pytest.mark.parametrize("case", CASES)
def test_folded_is_what_peft_computes(case: str, tmp_path: Path) -> None:
    from peft import get_peft_model
    from peft.mapping import PEFT_TYPE_TO_CONFIG_MAPPING

    family, kind, settings = CASES[case]
    model = tiny.build(family, tmp_path / "model")
    config = PEFT_TYPE_TO_CONFIG_MAPPING[kind](task_type="CAUSAL_LM", **({"target_modules": LINEAR} | settings))
    wrapped = get_peft_model(plain(model), config)
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for _, parameter in sorted(wrapped.named_parameters()):
            if parameter.requires_grad:
                parameter.add_(torch.randn(parameter.shape, generator=generator) * 0.05)
    wrapped.eval().save_pretrained(tmp_path / "adapter")
    computed = logits(wrapped)
    assert float((computed - logits(plain(model))).abs().max()) > 1e-2
    fold(model, tmp_path / "adapter", tmp_path / "folded")
    assert close(logits(plain(tmp_path / "folded")), computed)

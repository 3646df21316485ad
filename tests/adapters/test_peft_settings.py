"""Adapters that PEFT made with settings of its own: what is folded is what it computes with the whole of them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import tiny
import torch
from adapter_models import close, fold, logits, plain

from surgeon.errors import SurgeonError

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


def test_a_folder_of_several_adapters_names_them(tmp_path: Path) -> None:
    from peft import LoraConfig, get_peft_model

    model = tiny.build("llama", tmp_path / "model")
    wrapped = get_peft_model(plain(model), LoraConfig(r=2, target_modules=["q_proj"]), adapter_name="law")
    wrapped.add_adapter("code", LoraConfig(r=2, target_modules=["v_proj"]))
    wrapped.save_pretrained(tmp_path / "both")
    with pytest.raises(SurgeonError, match=r"there is no adapter_config\.json") as caught:
        fold(model, tmp_path / "both", tmp_path / "folded")
    assert caught.value.hint.endswith(f"give {tmp_path}/both/code or {tmp_path}/both/law")
    fold(model, tmp_path / "both" / "code", tmp_path / "folded")


def test_a_plan_does_not_repeat_what_speaks_of_other_modules(tmp_path: Path) -> None:
    """Rows in their thousands, for each of hundreds of modules."""
    from peft import LoraConfig, get_peft_model

    from surgeon.adapters.fold import FoldSettings, plan_fold
    from surgeon.ops.plan import dump_plan

    model = tiny.build("llama", tmp_path / "model")
    config = LoraConfig(r=2, target_modules=["q_proj"], use_dora=True, trainable_token_indices=[5, 55])
    get_peft_model(plain(model), config).save_pretrained(tmp_path / "adapter")
    plan = plan_fold(FoldSettings(model=f"{model}+{tmp_path / 'adapter'}", out=tmp_path / "out"))
    assert "trainable_token_indices" not in dump_plan(plan)

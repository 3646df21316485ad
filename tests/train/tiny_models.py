"""Tiny random models of any family that transformers has."""

from __future__ import annotations

from typing import Any

SIZES: dict[str, Any] = {
    "vocab_size": 512, "hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 3, "num_attention_heads": 4,
    "num_key_value_heads": 2, "head_dim": 8, "max_position_embeddings": 64, "bos_token_id": 1, "eos_token_id": 2,
    "pad_token_id": None,
}  # fmt: skip
GPT2 = {"vocab_size": 512, "n_embd": 32, "n_layer": 3, "n_head": 4, "n_positions": 64}
XLNET = {"vocab_size": 512, "d_model": 32, "n_layer": 3, "n_head": 4, "d_inner": 48}
NEOX = {k: v for k, v in SIZES.items() if k not in ("num_key_value_heads", "head_dim")}


def model_of(model_type: str, **changes: Any) -> Any:
    """A random model of a family, float32, weights wide enough for every part to matter."""
    import torch
    from transformers import CONFIG_MAPPING, AutoModelForCausalLM

    sizes = {"gpt2": GPT2, "gpt_neox": NEOX, "falcon": NEOX, "xlnet": XLNET}.get(model_type, SIZES)
    torch.manual_seed(0)
    model = AutoModelForCausalLM.from_config(CONFIG_MAPPING[model_type](**(sizes | changes)), dtype=torch.float32)
    if getattr(model.config, "attn_logit_softcapping", None) is not None:
        model.set_attn_implementation("eager")  # as load_model does
    for parameter in model.parameters():
        torch.nn.init.normal_(parameter, std=0.2) if parameter.ndim > 1 else None
    return model.eval()

"""A tiny configuration of the same shape: every width small, everything that says what a block is left as it is."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import torch

VOCAB = 97
_SIZES: dict[str, int] = {
    "vocab_size": VOCAB,
    "hidden_size": 64, "n_embd": 64, "d_model": 64, "dim": 64, "word_embed_proj_dim": 64, "embedding_size": 64,
    "num_attention_heads": 4, "n_head": 4, "num_heads": 4, "n_heads": 4, "attention_heads": 4,
    "head_dim": 16, "swa_head_dim": 16, "global_head_dim": 16, "v_head_dim": 16, "swa_v_head_dim": 16,
    "qk_nope_head_dim": 16, "qk_rope_head_dim": 8, "qk_head_dim": 24, "q_lora_rank": 24, "kv_lora_rank": 16,
    "rotary_dim": 8, "kv_channels": 16, "index_head_dim": 16, "index_n_heads": 2, "index_topk": 8, "lru_width": 64,
    "attention_window_size": 8, "o_lora_rank": 16, "attention_hidden_size": 64, "hidden_dim": 64,
    "intermediate_size": 96, "ffn_hidden_size": 96, "n_inner": 96, "ffn_dim": 96, "intermediate_size_mlp": 96,
    "moe_intermediate_size": 48, "shared_expert_intermediate_size": 48, "shared_intermediate_size": 48,
    "expert_ffn_hidden_size": 48, "moe_shared_expert_intermediate_size": 48, "dense_intermediate_size": 96,
    "num_experts": 4, "num_local_experts": 4, "n_routed_experts": 4, "moe_num_experts": 4,
    "num_experts_per_tok": 2, "moe_k": 2, "moe_topk": 2, "top_k": 2, "num_experts_per_token": 2,
    "moe_num_shared_experts": 1, "zero_expert_num": 2,
    "linear_num_key_heads": 2, "linear_num_value_heads": 4, "linear_key_head_dim": 8, "linear_value_head_dim": 8,
    "linear_head_dim": 16, "linear_num_heads": 4,
    "mamba_n_heads": 8, "mamba_d_head": 16, "mamba_d_state": 16, "mamba_n_groups": 1, "mamba_chunk_size": 8,
    "mamba_d_ssm": 128, "mamba_num_heads": 8, "mamba_head_dim": 16, "ssm_state_size": 16, "n_mamba_heads": 2,
    "n_groups": 1, "state_size": 16, "chunk_size": 8, "time_step_rank": 4, "mamba_dt_rank": 4,
    "mamba_headdim": 16, "mamba_ngroups": 1,
    "max_position_embeddings": 128, "n_positions": 128, "n_ctx": 128, "max_seq_len": 128,
    "sliding_window": 8, "sliding_window_size": 8, "attention_chunk_size": 8, "window_size": 8, "local_attention": 8,
    "original_max_position_embeddings": 128, "expert_dim": 48, "dim_model_base": 16,
}  # fmt: skip
_PER_BLOCK = {"num_attention_heads_per_layer": 4, "intermediate_size": 96}
_KEY_VALUE_HEADS = ("num_key_value_heads", "num_kv_heads", "swa_num_key_value_heads", "num_global_key_value_heads")
_HEADS = ("num_attention_heads", "n_head", "num_heads", "n_heads")


def shrink(config: Mapping[str, Any]) -> dict[str, Any]:
    """`config` (all keys of its class) with small widths, short windows, plain rotary positions and no dropout.

    Depth, kinds of blocks, numbers and periods of blocks, biases, norms, multipliers and ties stay.
    """
    result = dict(config)
    for key, value in config.items():
        size = _SIZES.get(key)
        if isinstance(value, bool) or value is None:
            continue
        if isinstance(value, list) and key in _PER_BLOCK:
            result[key] = [_PER_BLOCK[key]] * len(value)
        elif isinstance(value, int) and size is not None and value > 0:
            result[key] = (
                size if key not in ("num_experts_per_tok", "top_k", "moe_k", "moe_topk") else min(size, value)
            )
        elif "dropout" in key or "drop" in key or key.endswith("pdrop"):
            result[key] = 0.0 if isinstance(value, (int, float)) else value
    heads = next((config[key] for key in _HEADS if isinstance(config.get(key), int)), 0)
    for key in _KEY_VALUE_HEADS:
        if isinstance(config.get(key), int):
            result[key] = 4 if config[key] == heads else 1 if config[key] == 1 else 2
    if {"expand", "num_heads", "state_size"} <= config.keys():
        result["num_heads"] = config["expand"] * 64 // 16  # Mamba-2: heads of the inner width
    if isinstance(config.get("qk_rope_head_dim"), int) and isinstance(config.get("head_dim"), int):
        # of models with compressed keys head_dim is that of the rotated part, or of the whole
        rotated = config["head_dim"] == config["qk_rope_head_dim"]
        whole = config["head_dim"] == config["qk_rope_head_dim"] + config.get("qk_nope_head_dim", 0)
        result["head_dim"] = 8 if rotated else 24 if whole else 16
    for key in ("n_group", "topk_group", "num_expert_group", "moe_n_group"):
        if isinstance(config.get(key), int):
            result[key] = min(2 if key != "topk_group" else 1, config[key])
    for key, token in (("bos_token_id", 1), ("eos_token_id", 2), ("pad_token_id", 0)):
        if key in result:
            result[key] = token
    for key in ("rope_parameters", "rope_scaling"):
        if isinstance(result.get(key), dict):
            result[key] = _plain_rope(result[key])
    result.pop("quantization_config", None)
    return result


def _plain_rope(rope: Mapping[str, Any]) -> dict[str, Any]:
    """Default rotary positions; one entry for each kind of block where there are several."""
    if any(isinstance(value, Mapping) for value in rope.values()):
        return {key: _plain_rope(value) if isinstance(value, Mapping) else value for key, value in rope.items()}
    kept = ("rope_theta", "partial_rotary_factor", "llama_4_scaling_beta", "original_max_position_embeddings")
    return {"rope_type": "default"} | {key: rope[key] for key in kept if rope.get(key) is not None}


def probe_ids() -> torch.Tensor:
    """[2, 24] tokens of the tiny vocabulary: longer than the tiny windows."""
    import torch

    return torch.randint(3, VOCAB, (2, 24), generator=torch.Generator().manual_seed(1))

"""The tiny models that are told by their model_type: name -> (model_type, what differs from the common settings)."""

from __future__ import annotations

from typing import Any

WIDTH = 32
_WINDOW, _FULL, _LINEAR = "sliding_attention", "full_attention", "linear_attention"
_EXPERTS: dict[str, Any] = {"num_experts": 4, "num_experts_per_tok": 2, "moe_intermediate_size": 24}
_ROUTED: dict[str, Any] = {
    "n_routed_experts": 4,
    "num_experts_per_tok": 2,
    "moe_intermediate_size": 24,
    "n_shared_experts": 1,
    "first_k_dense_replace": 1,
}
_LATENT: dict[str, Any] = {
    "q_lora_rank": 16,
    "kv_lora_rank": 16,
    "qk_nope_head_dim": 8,
    "qk_rope_head_dim": 8,
    "v_head_dim": 8,
    "head_dim": 8,
    "n_group": 2,
    "topk_group": 1,
    "num_key_value_heads": 4,
}
_DELTA: dict[str, Any] = {
    "linear_num_key_heads": 2,
    "linear_num_value_heads": 4,
    "linear_key_head_dim": 8,
    "linear_value_head_dim": 8,
    "head_dim": 16,
    "layer_types": [_LINEAR, _LINEAR, _FULL, _LINEAR],
}
_MAMBA: dict[str, Any] = {
    "mamba_n_heads": 8,
    "mamba_d_head": 8,
    "mamba_d_state": 8,
    "mamba_n_groups": 1,
    "mamba_chunk_size": 8,
    "mamba_expand": 2,
}
_LOCAL: dict[str, Any] = {"num_local_experts": 4, "num_experts_per_tok": 2}
_TIED: dict[str, Any] = {"tie_word_embeddings": True}
# family -> (model_type, what differs from the common configuration)
BY_TYPE: dict[str, tuple[str, dict[str, Any]]] = {
    "gemma": ("gemma", _TIED | {"head_dim": 8}),
    "phi": ("phi", {"qk_layernorm": True}),
    "starcoder2": ("starcoder2", _TIED | {"sliding_window": 8}),
    "cohere": ("cohere", _TIED | {"use_qk_norm": True, "logit_scale": 1.0}),
    "cohere2": (
        "cohere2",
        _TIED | {"sliding_window": 8, "layer_types": [_WINDOW, _WINDOW, _WINDOW, _FULL], "logit_scale": 1.0},
    ),
    "glm": ("glm", {"head_dim": 8}),
    "glm4": ("glm4", {"head_dim": 8}),
    "exaone4": ("exaone4", {"sliding_window": 8, "layer_types": [_WINDOW, _FULL, _WINDOW, _FULL], "head_dim": 8}),
    "granite": (
        "granite",
        {"residual_multiplier": 0.5, "attention_multiplier": 0.3, "embedding_multiplier": 2.0, "logits_scaling": 0.5},
    ),
    "stablelm": ("stablelm", {"qk_layernorm": True, "use_qkv_bias": True}),
    "falcon": ("falcon", _TIED | {"alibi": False, "multi_query": True, "parallel_attn": True, "bias": True}),
    "falcon_new": ("falcon", {"alibi": False, "new_decoder_architecture": True, "num_kv_heads": 2}),
    "falcon_seq": ("falcon", {"alibi": True, "parallel_attn": False, "multi_query": False, "bias": True}),
    "nemotron": ("nemotron", {"head_dim": 8}),
    "helium": ("helium", {"head_dim": 8}),
    "ministral": (
        "ministral",
        {"head_dim": 8, "sliding_window": 8, "layer_types": [_WINDOW, _FULL, _WINDOW, _WINDOW]},
    ),
    "seed_oss": ("seed_oss", {"head_dim": 8, "attention_bias": True, "attention_out_bias": True}),
    "hunyuan_v1_dense": ("hunyuan_v1_dense", {"head_dim": 8}),
    "apertus": ("apertus", {}),
    "arcee": ("arcee", {}),
    "ernie4_5": ("ernie4_5", _TIED | {"head_dim": 8, "use_bias": True}),
    "olmoe": ("olmoe", {"num_experts": 4, "num_experts_per_tok": 2}),
    "qwen2_moe": ("qwen2_moe", _EXPERTS | {"shared_expert_intermediate_size": 24, "mlp_only_layers": [1]}),
    "gpt_oss": (
        "gpt_oss",
        _LOCAL | {"head_dim": 8, "sliding_window": 8, "layer_types": [_WINDOW, _FULL, _WINDOW, _FULL]},
    ),
    "deepseek_v2": ("deepseek_v2", _ROUTED | _LATENT | {"topk_method": "group_limited_greedy"}),
    "deepseek_v3": ("deepseek_v3", _ROUTED | _LATENT | {"num_nextn_predict_layers": 1}),
    "granitemoe": ("granitemoe", _LOCAL),
    "granitemoeshared": ("granitemoeshared", _LOCAL | {"shared_intermediate_size": 24}),
    "granitemoehybrid": (
        "granitemoehybrid",
        _LOCAL | _MAMBA | {"shared_intermediate_size": 24, "layer_types": [_LINEAR, _FULL, _LINEAR, _FULL]},
    ),
    "llama4_text": (
        "llama4_text",
        {
            "head_dim": 8,
            "intermediate_size_mlp": 48,
            "num_local_experts": 4,
            "num_experts_per_tok": 1,
            "moe_layers": [1, 3],
            "no_rope_layers": [1, 1, 1, 0],
            "attention_chunk_size": 8,
            "layer_types": ["chunked_attention", "chunked_attention", "chunked_attention", _FULL],
        },
    ),
    "glm4_moe": ("glm4_moe", _ROUTED | {"head_dim": 8, "n_group": 1, "topk_group": 1, "use_qk_norm": True}),
    "ernie4_5_moe": (
        "ernie4_5_moe",
        _TIED
        | {
            "head_dim": 8,
            "moe_num_experts": 4,
            "moe_k": 2,
            "moe_intermediate_size": 24,
            "moe_num_shared_experts": 1,
            "moe_layer_start_index": 1,
            "moe_layer_end_index": 2,
        },
    ),
    "qwen3_next": ("qwen3_next", _EXPERTS | _DELTA | {"shared_expert_intermediate_size": 24, "mlp_only_layers": [1]}),
    "qwen3_5_text": ("qwen3_5_text", _DELTA),
    "mamba2": (
        "mamba2",
        {"num_heads": 8, "head_dim": 8, "expand": 2, "state_size": 8, "n_groups": 1, "chunk_size": 8},
    ),
    "lfm2": ("lfm2", _TIED | {"layer_types": ["conv", _FULL, "conv", _FULL], "block_auto_adjust_ff_dim": False}),
    "bloom": ("bloom", _TIED | {"n_layer": 4, "n_head": 4}),
    "opt": ("opt", _TIED | {"ffn_dim": 48, "word_embed_proj_dim": 32}),
    "gpt_bigcode": ("gpt_bigcode", _TIED | {"n_layer": 4, "n_head": 4, "n_embd": 32, "n_positions": 128}),
}
# families that nobody declared: name -> (model_type, what differs); the first are exact, the others refused
UNDECLARED: dict[str, tuple[str, dict[str, Any]]] = {
    "gptj": ("gptj", {"n_layer": 4, "n_head": 4, "n_embd": WIDTH, "rotary_dim": 8}),
    "mpt": ("mpt", {"n_layers": 4, "n_heads": 4, "d_model": WIDTH} | _TIED),
    "xglm": ("xglm", {"d_model": WIDTH, "num_layers": 4, "attention_heads": 4, "ffn_dim": 48} | _TIED),
    "minicpm3": (
        "minicpm3",
        {k: v for k, v in _LATENT.items() if "group" not in k and k != "head_dim"} | {"scale_depth": 1.4},
    ),
    "nanochat": ("nanochat", {}),
    "afmoe": (
        "afmoe",
        _EXPERTS | {"num_dense_layers": 1, "num_shared_experts": 1, "head_dim": 8, "sliding_window": 8},
    ),
    "dots1": ("dots1", _ROUTED | {"head_dim": 8, "n_group": 1, "topk_group": 1}),
    "bamba": ("bamba", _MAMBA | {"attn_layer_indices": [1, 3]}),
    "gemma4_text": (
        "gemma4_text",
        {
            "head_dim": 8,
            "per_layer_config": {1: {"head_dim": 16}, 3: {"head_dim": 16}},
            "sliding_window": 8,
            "hidden_size_per_layer_input": 0,
            "layer_types": [_WINDOW, _FULL, _WINDOW, _FULL],
        }
        | _TIED,
    ),
    "phimoe": ("phimoe", _LOCAL),
    # a norm behind both branches of one kind of block and behind none of the other; behind the experts only
    "olmo_hybrid": ("olmo_hybrid", _DELTA | {"layer_types": [_LINEAR] * 3 + [_FULL]}),
    "axk1": ("axk1", _ROUTED | _LATENT),
    "bitnet": ("bitnet", {}),
    "persimmon": ("persimmon", {}),
}
NOT_EXACT: dict[str, tuple[str, dict[str, Any]]] = {
    "diffllama": ("diffllama", {}),
    "minimax": ("minimax", _LOCAL | {"layer_types": [_LINEAR, _FULL, _LINEAR, _FULL], "head_dim": 8}),
    "gpt_neox_japanese": ("gpt_neox_japanese", {"intermediate_multiple_size": 2} | _TIED),
    "jamba": (
        "jamba",
        {"attn_layer_period": 2, "attn_layer_offset": 1, "use_mamba_kernels": False, "num_experts": 2},
    ),
    # of its first block only: it has a norm less than the others
    "modernbert-decoder": ("modernbert-decoder", {"local_attention": 8, "cls_token_id": 1, "sep_token_id": 2}),
    "openai-gpt": ("openai-gpt", {"n_layer": 4, "n_head": 4, "n_embd": WIDTH, "n_positions": 128} | _TIED),
}
# refused for what its configuration says, as every block mixes several residual streams
STREAMS: dict[str, tuple[str, dict[str, Any]]] = {
    "deepseek_v4": (
        "deepseek_v4",
        {"n_routed_experts": 4, "num_experts_per_tok": 2, "moe_intermediate_size": 24, "head_dim": 16}
        | {"index_head_dim": 8, "index_n_heads": 2, "index_topk": 4, "q_lora_rank": 16, "o_lora_rank": 16},
    ),
}

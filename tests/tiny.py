"""Tiny random models of every family, saved with save_pretrained: real files for tests that need an architecture.

Every parameter is random, norms and biases included, so that a tensor in the wrong place changes the logits.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from tiny_types import BY_TYPE as BY_TYPE
from tiny_types import NOT_EXACT as NOT_EXACT
from tiny_types import STREAMS as STREAMS
from tiny_types import UNDECLARED as UNDECLARED
from tiny_types import WIDTH

VOCAB = 97
FAMILIES: list[str] = [
    "llama",
    "llama_bias",
    "mistral",
    "qwen2",
    "qwen3",
    "gemma2",
    "gemma3_text",
    "phi3",
    "olmo",
    "olmo2",
    "olmo3",
    "smollm3",
    "gpt2",
    "gpt_neox",
    "gpt_neox_seq",
    "mixtral",
    "qwen3_moe",
]

_COMMON: dict[str, Any] = {
    "vocab_size": VOCAB,
    "hidden_size": WIDTH,
    "intermediate_size": 48,
    "num_hidden_layers": 4,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 128,
    "bos_token_id": 1,
    "eos_token_id": 2,
    "pad_token_id": 0,
    "tie_word_embeddings": False,
    # large enough that logits are far from each other
    "initializer_range": 0.15,
}
# family -> (class prefix in transformers, what differs from the common configuration)
_FAMILIES: dict[str, tuple[str, dict[str, Any]]] = {
    "llama": ("Llama", {}),
    "llama_bias": ("Llama", {"attention_bias": True, "mlp_bias": True, "num_hidden_layers": 5}),
    "mistral": ("Mistral", {"sliding_window": 8}),
    "qwen2": ("Qwen2", {"use_sliding_window": True, "sliding_window": 8, "max_window_layers": 2}),
    "qwen3": ("Qwen3", {"head_dim": 8, "tie_word_embeddings": True, "num_hidden_layers": 6}),
    "gemma2": (
        "Gemma2",
        {"head_dim": 8, "sliding_window": 8, "query_pre_attn_scalar": 8, "tie_word_embeddings": True},
    ),
    "gemma3_text": (
        "Gemma3",
        {
            "head_dim": 8,
            "sliding_window": 8,
            "query_pre_attn_scalar": 8,
            "tie_word_embeddings": True,
            "num_hidden_layers": 6,
            "layer_types": ["sliding_attention", "sliding_attention", "full_attention"] * 2,
        },
    ),
    "phi3": ("Phi3", {}),
    "olmo": ("Olmo", {}),
    "olmo2": ("Olmo2", {}),
    "olmo3": (
        "Olmo3",
        {"sliding_window": 8, "layer_types": ["sliding_attention"] * 3 + ["full_attention"]},
    ),
    "smollm3": (
        "SmolLM3",
        {"no_rope_layers": [1, 1, 0, 1], "tie_word_embeddings": True},
    ),
    "gpt2": ("GPT2", {"n_layer": 4, "n_head": 4, "n_embd": WIDTH, "n_positions": 128}),
    "gpt_neox": ("GPTNeoX", {"use_parallel_residual": True}),
    "gpt_neox_seq": ("GPTNeoX", {"use_parallel_residual": False}),
    "mixtral": ("Mixtral", {"num_local_experts": 3, "num_experts_per_tok": 2}),
    "qwen3_moe": (
        "Qwen3Moe",
        {
            "head_dim": 8,
            "num_experts": 4,
            "num_experts_per_tok": 2,
            "moe_intermediate_size": 24,
            "mlp_only_layers": [1],
            "num_hidden_layers": 5,
        },
    ),
}
FAMILIES += list(BY_TYPE)
# keys of the common configuration that a class knows by other names, and would take for its own
_ABSENT = {
    "falcon": ("num_key_value_heads", "intermediate_size"),
    **dict.fromkeys(
        ("gptj", "mpt", "xglm", "openai-gpt"),
        (
            "hidden_size",
            "num_hidden_layers",
            "num_attention_heads",
            "num_key_value_heads",
            "intermediate_size",
            "max_position_embeddings",
        ),
    ),
    "bloom": ("num_hidden_layers", "num_attention_heads"),
    "gpt_bigcode": ("hidden_size", "num_hidden_layers", "num_attention_heads", "max_position_embeddings"),
}
_GPT2_ABSENT = (
    "hidden_size", "intermediate_size", "num_hidden_layers", "num_attention_heads", "num_key_value_heads",
    "max_position_embeddings", "tie_word_embeddings",
)  # fmt: skip
_NOT_TIED_GPT2 = {"tie_word_embeddings": True}


def configuration(family: str, **config: Any) -> Any:
    """The transformers configuration of this family's tiny model, changed by `config`."""
    import transformers

    values = dict(_COMMON)
    by_type = BY_TYPE | UNDECLARED | NOT_EXACT | STREAMS
    if family in by_type:
        model_type, own = by_type[family]
        values = {k: v for k, v in values.items() if k not in _ABSENT.get(model_type, ())}
        return transformers.AutoConfig.for_model(model_type, **values | own | config)
    prefix, own = _FAMILIES[family]
    if family == "gpt2":
        values = {k: v for k, v in values.items() if k not in _GPT2_ABSENT} | _NOT_TIED_GPT2
    name = "Gemma3TextConfig" if family == "gemma3_text" else f"{prefix}Config"
    return getattr(transformers, name)(**values | own | config)


def build(family: str, folder: Path, dtype: str = "float32", seed: int = 0, **config: Any) -> Path:
    """Save a tiny random model of `family` to `folder` (created) and return it; `config` overrides its settings."""
    import torch
    import transformers

    model = transformers.AutoModelForCausalLM.from_config(configuration(family, **config), dtype=torch.float32)
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in [*dict(model.named_parameters()).values(), *corrections(model)]:
            noise = torch.randn(parameter.shape, generator=generator)
            if parameter.ndim > 1:
                parameter.copy_(noise * 0.2)
            else:  # gains stay near what they were, biases become small and non-zero
                parameter.add_(noise * 0.1)
    model = model.to(getattr(torch, dtype))
    model.config.dtype = dtype
    folder.mkdir(parents=True, exist_ok=True)
    model.save_pretrained(folder)
    return folder


def corrections(model: Any) -> list[Any]:
    """The saved buffers that hold numbers (corrections of a router's scores), which random values must fill too."""
    saved = model.state_dict(keep_vars=True)
    return [b for name, b in model.named_buffers() if name in saved and b.is_floating_point()]

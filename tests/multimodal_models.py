"""Tiny random multimodal models of transformers, with the quickstart's tokenizer."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import torch

TEXT: dict[str, Any] = {
    "vocab_size": 512, "hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 4, "num_attention_heads": 4,
    "num_key_value_heads": 2, "max_position_embeddings": 128, "head_dim": 8, "pad_token_id": 0, "bos_token_id": 1,
    "eos_token_id": 2,
}  # fmt: skip
VISION: dict[str, Any] = {
    "hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2, "num_attention_heads": 4, "image_size": 28,
    "patch_size": 14, "depth": 2, "num_heads": 4, "out_hidden_size": 32,
}  # fmt: skip
_MROPE = {"rope_type": "default", "rope_theta": 10000.0, "mrope_section": [1, 1, 2]}
_DELTA = {
    "linear_num_key_heads": 2, "linear_num_value_heads": 4, "linear_key_head_dim": 8, "linear_value_head_dim": 8,
}  # fmt: skip
# type -> (of its text part, of its vision part, of the whole)
KINDS: dict[str, tuple[dict[str, Any], dict[str, Any], dict[str, Any]]] = {
    "gemma3": ({"sliding_window": 8}, {}, {"image_token_index": 500, "mm_tokens_per_image": 4}),
    "gemma4": (
        {"num_hidden_layers": 6, "sliding_window": 8, "hidden_size_per_layer_input": 0},
        {"num_key_value_heads": 4, "head_dim": 8, "patch_size": 4, "position_embedding_size": 64},
        {"audio_config": None, "image_token_id": 500},
    ),
    "aya_vision": ({"logit_scale": 0.25, "sliding_window": 8}, {"vision_use_head": False}, {"image_token_index": 500}),
    "llama4": ({"intermediate_size_mlp": 64, "num_local_experts": 2}, {}, {"image_token_index": 500}),
    "mistral3": ({}, {}, {"image_token_index": 500}),
    "llava": ({}, {}, {"image_token_index": 500}),
    "qwen3_5": (_DELTA, {}, {}),
    "qwen3_vl": ({"rope_parameters": _MROPE}, {"deepstack_visual_indexes": [0, 1]}, {"image_token_id": 500}),
    "qwen2_5_vl": ({"rope_parameters": _MROPE, "head_dim": None}, {}, {"image_token_id": 500}),
}


def build(kind: str, folder: Path, tokenizer: Path, **whole: Any) -> Path:
    """Saved as save_pretrained does; every parameter random, norms and biases too."""
    from transformers import AutoConfig, AutoModelForImageTextToText

    of_text, of_vision, of_all = KINDS[kind]
    plain = AutoConfig.for_model(kind)
    classes = {"text_config": type(plain.text_config), "vision_config": type(plain.vision_config)}
    if plain.vision_config is None:
        classes["vision_config"] = type(plain).sub_configs["vision_config"]
    values = {"text_config": TEXT | of_text, "vision_config": VISION | of_vision}
    parts = {name: made(**values[name]).to_dict() for name, made in classes.items()}
    torch.manual_seed(0)
    model = AutoModelForImageTextToText.from_config(type(plain)(**parts, **of_all, **whole))
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(torch.randn(parameter.shape) * 0.02)
    model.save_pretrained(folder)
    for path in tokenizer.glob("tokenizer*"):
        shutil.copy(path, folder)
    (folder / "preprocessor_config.json").write_text("{}\n")
    return folder


def logits(model: Path, multimodal: bool, ids: torch.Tensor, **images: Any) -> torch.Tensor:
    """float32; loaded as anybody would, with nothing missing and nothing left over."""
    from transformers import AutoModelForCausalLM, AutoModelForImageTextToText

    kind = AutoModelForImageTextToText if multimodal else AutoModelForCausalLM
    loaded, told = kind.from_pretrained(model, dtype=torch.float32, output_loading_info=True)
    assert not any(told[key] for key in ("missing_keys", "unexpected_keys", "mismatched_keys")), told
    loaded.eval()
    if type(loaded).__name__ == "Llama4ForConditionalGeneration":  # its own forward fails without an image
        loaded = loaded.language_model
    with torch.no_grad():
        found: torch.Tensor = loaded(input_ids=ids, **images).logits
    return found

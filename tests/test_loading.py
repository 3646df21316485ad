"""What a model computes does not depend on which attention the installed library prefers for it."""

from __future__ import annotations

from pathlib import Path

import torch
from transformers import AutoModelForCausalLM, Gemma2Config

from surgeon.loading import load_model


@torch.no_grad()
def test_soft_caps_of_attention_are_computed(tmp_path: Path) -> None:
    """Before 5.24 transformers chose `sdpa` for Gemma 2, which leaves them out. The cap is low, so that it matters."""
    torch.manual_seed(0)
    config = Gemma2Config(
        vocab_size=64, hidden_size=32, intermediate_size=48, num_hidden_layers=2, num_attention_heads=4,
        num_key_value_heads=2, head_dim=8, attn_logit_softcapping=0.5, query_pre_attn_scalar=1,
    )  # fmt: skip
    made = AutoModelForCausalLM.from_config(config, dtype=torch.float32)
    for parameter in made.parameters():
        torch.nn.init.normal_(parameter, std=0.5)
    made.save_pretrained(tmp_path)
    model = load_model(tmp_path, device=torch.device("cpu"), dtype=torch.float32)
    ids = torch.arange(3, 40)[None]
    found = model(input_ids=ids, use_cache=False).logits
    model.set_attn_implementation("eager")
    expected = model(input_ids=ids, use_cache=False).logits
    assert torch.equal(found, expected)
    for block in model.model.layers:
        block.self_attn.attn_logit_softcapping = None
    assert float((model(input_ids=ids, use_cache=False).logits - expected).abs().max()) > 1e-2

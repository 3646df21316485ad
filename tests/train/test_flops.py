"""The formula of operations against torch's own count of a forward and a backward pass."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from tiny_models import model_of
from torch.utils.flop_counter import FlopCounterMode

from surgeon.train.flops import flops_per_token
from surgeon.train.forward import nats_of
from surgeon.train.trainable import select

SEQ = 48
aten = torch.ops.aten


def filters(grad: Any, _: Any, weight: Any, *rest: Any, out_shape: Any = None, **options: Any) -> int:
    """Of a convolution's gradients; torch counts one of a channel each as one from all channels to all."""
    mask = rest[-1]
    return 2 * math.prod(grad) * math.prod(weight[1:]) * (int(mask[0]) + int(mask[1]))


def solved(matrix: Any, given: Any, *_: Any, out_shape: Any = None, **options: Any) -> int:
    """Of a triangular system; torch does not count it."""
    return math.prod(given) * matrix[-1]


OWN = {aten.convolution_backward: filters, aten.linalg_solve_triangular: solved}
WHAT = [
    "full", r"layers\.2\.", r"layers\.1\.mlp\.down_proj", r"lm_head|norm\.weight$", "lm_head", r"layers\.1\..*q_proj",
    r"layers\.1\..*v_proj", r"layers\.1\..*[kv]_proj",
]  # fmt: skip


def counted(model: Any, size: int = SEQ) -> float:
    """Per token. Attention counts whole, not its causal half, as in the formula; of experts those that are visited."""
    ids = torch.randint(3, 512, (2, size))
    model.set_attn_implementation("eager")
    inner = model.get_base_model() if hasattr(model, "get_base_model") else model
    if hasattr(inner, "set_experts_implementation"):
        inner.set_experts_implementation("eager")
    with FlopCounterMode(display=False, custom_mapping=OWN) as counter:
        nats_of(model(input_ids=ids, use_cache=False).logits, ids).backward()
    return counter.get_total_flops() / ids.numel()


@pytest.mark.parametrize("what", WHAT)
@pytest.mark.parametrize("family", ["llama", "qwen3", "mistral", "olmo2"])
def test_the_formula_is_what_torch_counts(family: str, what: str) -> None:
    model = model_of(family, hidden_size=64, intermediate_size=96, tie_word_embeddings=False).train()
    trainable = select(model, what, None)
    assert flops_per_token(model, trainable, SEQ) == pytest.approx(counted(model), rel=0.02)


@pytest.mark.parametrize("family", ["gpt2", "gpt_neox"])
def test_also_where_the_blocks_are_others(family: str) -> None:
    model = model_of(family).train()
    assert flops_per_token(model, select(model, "full", None), SEQ) == pytest.approx(counted(model), rel=0.02)


LOW_RANK = {
    "q_lora_rank": 16, "kv_lora_rank": 16, "qk_nope_head_dim": 8, "qk_rope_head_dim": 8, "v_head_dim": 8,
    "num_key_value_heads": 4, "moe_intermediate_size": 24, "n_routed_experts": 4, "num_experts_per_tok": 2,
    "n_group": 1, "topk_group": 1, "first_k_dense_replace": 1,
}  # fmt: skip
STATES = {"mamba_d_state": 8, "mamba_dt_rank": 4, "attn_layer_period": 2, "attn_layer_offset": 1, "num_experts": 4}
DELTA = {
    "linear_num_key_heads": 2, "linear_num_value_heads": 4, "linear_key_head_dim": 8, "linear_value_head_dim": 8,
    "layer_types": ["linear_attention", "linear_attention", "full_attention"],
}  # fmt: skip
OTHERS: dict[str, dict[str, Any]] = {
    "deepseek_v2": LOW_RANK,
    "deepseek_v3": LOW_RANK,
    "mixtral": {"num_local_experts": 4},
    "qwen3_moe": {"num_experts": 4, "num_experts_per_tok": 2, "moe_intermediate_size": 24},
    "aria_text": {"moe_num_experts": 4, "moe_topk": 2, "moe_num_shared_experts": 1},
    "gemma3_text": {"sliding_window": 6},
    "jamba": STATES,
    "lfm2": {"layer_types": ["conv", "full_attention", "conv"], "block_auto_adjust_ff_dim": False},
    "qwen3_5_text": DELTA,
    "mamba": {"state_size": 8, "time_step_rank": 4},
    "bart": {"d_model": 32, "decoder_layers": 3, "decoder_attention_heads": 4, "decoder_ffn_dim": 48},
}


@pytest.mark.parametrize("what", ["full", r"(layers|blocks)\.1\."])
@pytest.mark.parametrize("family", OTHERS)
def test_also_where_blocks_are_not_alike(family: str, what: str) -> None:
    """Rows long enough for a block that is taken to attend and does not to be seen."""
    model = model_of(family, **(OTHERS[family] | {"max_position_embeddings": 192})).train()
    trainable = select(model, what, None)
    assert flops_per_token(model, trainable, 192) == pytest.approx(counted(model, 192), rel=0.02)


def test_widths_of_a_block_of_its_own() -> None:
    """Gemma 4 and its like have wider heads in some blocks; the configuration refuses to name one width."""
    model = model_of("llama", tie_word_embeddings=False)
    whole = flops_per_token(model, select(model, "full", None), 512)
    wide = torch.nn.Linear(64, 32, bias=False)
    narrow = model.model.layers[1].self_attn.o_proj.weight.numel()
    model.model.layers[1].self_attn.o_proj = wide
    more = flops_per_token(model, select(model, "full", None), 512)
    assert more - whole == pytest.approx(6 * (wide.weight.numel() - narrow) + 3 * 4 * 512 * (64 - 32))


ADAPTERS: list[tuple[str, Any]] = [
    ("llama", ["q_proj", "v_proj"]),
    ("llama", ["down_proj"]),
    ("llama", ["o_proj", "up_proj"]),
    ("llama", "all-linear"),
    ("qwen3_moe", ["q_proj", "o_proj"]),
]


@pytest.mark.parametrize(("family", "targets"), ADAPTERS)
def test_an_adapter_costs_what_torch_counts(family: str, targets: Any) -> None:
    """What it stands on has no gradient of its weights, but one of its inputs."""
    from peft import LoraConfig, get_peft_model

    model = get_peft_model(model_of(family, **OTHERS.get(family, {})), LoraConfig(r=4, target_modules=targets)).train()
    trainable = select(model, "adapter", None)
    assert flops_per_token(model, trainable, SEQ) == pytest.approx(counted(model), rel=0.02)

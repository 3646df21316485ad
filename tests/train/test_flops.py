"""The formula of operations against torch's own count of a forward and a backward pass."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from tiny_models import model_of
from torch.utils.flop_counter import FlopCounterMode

from surgeon.train.flops import flops_per_token
from surgeon.train.forward import nats_of
from surgeon.train.trainable import select

SEQ = 48
WHAT = ["full", r"layers\.2\.", r"layers\.1\.mlp\.down_proj", r"lm_head|norm\.weight$"]


def counted(model: Any) -> float:
    """Per token. Attention counts whole, not its causal half, as in the formula."""
    ids = torch.randint(3, 512, (2, SEQ))
    model.set_attn_implementation("eager")
    with FlopCounterMode(display=False) as counter:
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

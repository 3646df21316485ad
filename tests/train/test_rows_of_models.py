"""What a short probe of packing cannot show: lengths of a configuration that count from the row's beginning, models
that see ahead, and frequencies that hang on the longest text."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from test_packed_attention import alone, packed_batch
from tiny_models import model_of

from surgeon.errors import SurgeonError, UsageError
from surgeon.train import attention
from surgeon.train.run import describe_cpt, run_cpt
from surgeon.train.settings import CptSettings

# Llama 4 scales the queries of blocks without positions by the place in the row
TEMPERATURE: dict[str, Any] = {
    "attn_temperature_tuning": True, "no_rope_layers": [0, 0, 1], "attention_chunk_size": 64, "num_local_experts": 2,
    "intermediate_size_mlp": 48,
}  # fmt: skip
LONGROPE = {
    "rope_type": "longrope", "rope_theta": 1e4, "short_factor": [1.0] * 4, "long_factor": [4.0] * 4,
    "original_max_position_embeddings": 24,
}  # fmt: skip
REFORMER = {
    "is_decoder": True, "attn_layers": ["local"] * 3, "axial_pos_embds": False, "attention_head_size": 8,
    "local_attn_chunk_length": 8, "feed_forward_size": 48, "pad_token_id": 0,
}  # fmt: skip
XMOD = {"is_decoder": True, "languages": ["en_XX", "de_DE"]}


@pytest.mark.parametrize(("floor", "mode"), [(24, "rows"), (32, "rows"), (33, "mask"), (4, "rows")])
def test_a_scale_by_the_place_in_a_row_is_found_beyond_the_short_probe(floor: int, mode: str) -> None:
    model = model_of("llama4_text", floor_scale=floor, **TEMPERATURE)
    batch = packed_batch()
    chosen = attention.choose(model, 32)
    assert chosen == mode
    with torch.no_grad():
        found, _ = attention.logits(model, batch, chosen)
    if chosen == "rows":
        found = torch.cat([found[row, :n] for row, n in enumerate(batch.lengths)])
    reference = alone(model, batch)
    assert float((found.reshape(reference.shape) - reference).abs().max()) <= 4e-6 * float(reference.abs().max())


def test_such_a_scale_is_not_served_by_lengths() -> None:
    """All rows are one there, so it may be longer than the scale however short they are."""
    model = model_of("llama4_text", floor_scale=64, **TEMPERATURE)
    assert not attention.by_lengths(model, 32, torch.device("cpu"), torch.float32)


@pytest.mark.parametrize(
    ("family", "changes", "why"),
    [
        ("xlnet", {}, "is no causal model"),
        ("reformer", REFORMER, "cannot read rows of tokens: If training, sequence length 12 has to be a multiple"),
        ("xmod", XMOD, "cannot read rows of tokens: Input language unknown"),
    ],
)
def test_what_is_no_reader_of_rows_is_refused(family: str, changes: dict[str, Any], why: str) -> None:
    model = model_of(family, **changes)
    with pytest.raises(SurgeonError, match=why):
        attention.choose(model, 32)


def settings_of(model: Path, corpus: Path, out: Path, seq_len: int, packing: str) -> CptSettings:
    return CptSettings(
        model=str(model), out=str(out), data=[str(corpus)], tokens=seq_len, seq_len=seq_len, batch_tokens=seq_len,
        packing=packing, device="cpu",
    )  # fmt: skip


@pytest.mark.parametrize(
    ("seq_len", "packing", "served"), [(32, "split", False), (24, "split", True), (32, "concat", True)]
)
def test_frequencies_by_the_longest_text(
    seq_len: int, packing: str, served: bool, tiny: Callable[..., Path], corpus: Path, tmp_path: Path
) -> None:
    """Up to the length at which they turn they are the short ones; with --packing concat all texts are rows."""
    model = tiny("phi3", rope_parameters=LONGROPE, original_max_position_embeddings=24)
    settings = settings_of(model, corpus, tmp_path / "out", seq_len, packing)
    if served:
        assert run_cpt(settings).steps == 1
    else:
        with pytest.raises(UsageError, match="more than 24 tokens changes how Phi3ForCausalLM reads the shorter ones"):
            run_cpt(settings)


GEMMA3N = {
    "intermediate_size": [48, 40, 48], "hidden_size_per_layer_input": 8, "vocab_size_per_layer_input": 512,
    "num_kv_shared_layers": 1, "laurel_rank": 8, "altup_num_inputs": 2, "activation_sparsity_pattern": [0.0] * 3,
    "layer_types": ["sliding_attention", "full_attention", "full_attention"],
}  # fmt: skip


@pytest.mark.parametrize(
    ("family", "changes"), [("mamba", {"state_size": 8, "time_step_rank": 4}), ("gemma3n_text", GEMMA3N)]
)
def test_models_without_heads_or_with_a_width_for_each_block(
    family: str, changes: dict[str, Any], tiny: Callable[..., Path], corpus: Path, tmp_path: Path
) -> None:
    settings = settings_of(tiny(family, **changes), corpus, tmp_path / "out", 32, "split")
    described = describe_cpt(settings)
    assert described["flops_per_token"] > 0 and described["memory_bytes"]["activations"] > 0
    assert run_cpt(settings).steps == described["steps"] == 1


BART = {"d_model": 32, "decoder_layers": 3, "decoder_attention_heads": 4, "decoder_ffn_dim": 48}


def test_a_set_that_the_loss_does_not_depend_on_is_refused(
    tiny: Callable[..., Path], corpus: Path, tmp_path: Path
) -> None:
    """A decoder that was half of a pair still has the attention to the other half, which nothing runs through."""
    settings = settings_of(tiny("bart", **BART), corpus, tmp_path / "out", 32, "split")
    with pytest.raises(UsageError, match="depends on none of the trained tensors"):
        run_cpt(settings.model_copy(update={"train": "encoder_attn"}))
    assert not (tmp_path / "out").exists()
    assert run_cpt(settings.model_copy(update={"train": "encoder_attn|fc1"})).steps == 1

"""Packed logits are those of each document alone, on every family, in every mode that is chosen."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from tiny_models import model_of

from surgeon.data.pack import IGNORED, Window
from surgeon.train import attention
from surgeon.train.batch import Batch, collate
from surgeon.train.segments import NAME, register

FAMILIES = (
    "llama", "gpt2", "gpt_neox", "qwen2", "qwen3", "qwen3_moe", "gemma", "gemma2", "gemma3_text", "mistral", "mixtral",
    "phi", "phi3", "olmo2", "olmo3", "smollm3", "granite", "glm4", "starcoder2", "cohere", "exaone4",
)  # fmt: skip
SERVED = [f for f in FAMILIES if f not in ("gemma2", "gemma3_text")]  # by the lengths of segments
LENGTHS = ((9, 1, 22), (32,), (20, 12))


def packed_batch() -> Batch:
    import numpy as np

    rng = np.random.default_rng(0)
    windows = []
    for lengths in LENGTHS:
        ids = rng.integers(3, 512, 32).astype(np.int32)
        starts = np.cumsum([0, *lengths[:-1]])
        labels = np.concatenate([[*ids[a + 1 : a + n], IGNORED] for a, n in zip(starts, lengths, strict=True)])
        windows.append(Window(ids, labels.astype(np.int64), lengths, 32))
    return collate(windows, torch.device("cpu"))


def alone(model: Any, batch: Batch) -> torch.Tensor:
    """The reference: every document in a call of its own, with transformers' eager attention."""
    model.set_attn_implementation("eager")
    parts = batch.ids.view(-1).split(list(batch.lengths))
    with torch.no_grad():
        return torch.cat([model(input_ids=p[None], use_cache=False).logits[0] for p in parts])


@pytest.mark.parametrize("family", FAMILIES)
def test_packed_logits_are_those_of_each_document_alone(family: str) -> None:
    # windows of 6 tokens: a block that sees less than a document must still see exactly that
    model = model_of(family, **({"sliding_window": 6} if family in ("gemma2", "gemma3_text", "mistral") else {}))
    batch = packed_batch()
    mode = attention.choose(model, 32)
    assert mode == "mask"
    with torch.no_grad():
        packed, labels = attention.logits(model, batch, mode)
    reference = alone(model, batch)
    scale = max(1.0, float(reference.abs().max()))
    assert float((packed.reshape(reference.shape) - reference).abs().max()) <= 1e-6 * scale * 4
    assert torch.equal(labels, batch.labels)


@pytest.mark.parametrize("family", SERVED)
def test_attention_by_lengths_is_the_same(family: str) -> None:
    model, batch = model_of(family), packed_batch()
    reference = alone(model, batch)
    register()
    model.set_attn_implementation(NAME)
    with torch.no_grad():
        packed, _ = attention.logits(model, batch, "segments")
    scale = max(1.0, float(reference.abs().max()))
    assert float((packed[0] - reference).abs().max()) <= 4e-6 * scale


def test_a_document_a_row_has_the_same_loss() -> None:
    from surgeon.train.forward import nats_of

    model, batch = model_of("llama"), packed_batch()
    with torch.no_grad():
        packed, rows = (nats_of(*attention.logits(model, batch, mode)) for mode in ("mask", "rows"))
    assert float(rows) == pytest.approx(float(packed), rel=1e-6)


@pytest.mark.parametrize("family", ["bloom", "falcon"])
def test_a_family_that_would_leak_gets_a_document_a_row(family: str) -> None:
    """ALiBi sees across documents whatever the mask in some versions of the library: the probe on the model tells."""
    model = model_of(family, **({"alibi": True} if family == "falcon" else {"n_layer": 3, "n_head": 4}))
    batch, held = packed_batch(), attention.holds(model, "mask")
    with torch.no_grad():
        packed, _ = attention.logits(model, batch, "mask")
    reference = alone(model, batch)
    leak = float((packed.reshape(reference.shape) - reference).abs().max() / reference.abs().max())
    assert leak <= 1e-5 if held else leak > 1e-3
    assert attention.choose(model, 32) == ("mask" if held else "rows")


def test_positions_that_run_on_are_found_out() -> None:
    """The probe is not blind: the same batch without positions is naive concatenation, and is told apart."""
    model, batch = model_of("llama"), packed_batch()
    with torch.no_grad():
        naive = model(input_ids=batch.ids, use_cache=False).logits.reshape(-1, 512)
    assert float((naive - alone(model, batch)).abs().max()) > 1e-2

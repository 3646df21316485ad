"""Packed logits are those of each document alone, on every family, in every mode that is chosen."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from tiny_models import model_of

from surgeon.checkpoint.index import Checkpoint
from surgeon.data.items import Item
from surgeon.data.pack import IGNORED, Window
from surgeon.errors import UsageError
from surgeon.model_ref import resolve
from surgeon.train import attention
from surgeon.train.batch import Batch, collate
from surgeon.train.other_teacher import OtherModel, load_teacher
from surgeon.train.run import run_cpt
from surgeon.train.score import score
from surgeon.train.segments import NAME, Call, observed, register
from surgeon.train.settings import CptSettings

FAMILIES = (
    "llama", "gpt2", "gpt_neox", "qwen2", "qwen3", "qwen3_moe", "gemma", "gemma2", "gemma3_text", "mistral", "mixtral",
    "phi", "phi3", "olmo2", "olmo3", "smollm3", "granite", "glm4", "starcoder2", "cohere", "exaone4",
)  # fmt: skip
SERVED = [f for f in FAMILIES if f not in ("gemma2", "gemma3_text")]  # by the lengths of segments
LENGTHS = ((9, 1, 22), (32,), (20, 12))


def packed_batch() -> Batch:
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


WINDOWS = {
    "mistral": {"sliding_window": 6},
    "mixtral": {"sliding_window": 6},
    "starcoder2": {"sliding_window": 6},
    "phi3": {"sliding_window": 6},
    "qwen2": {"use_sliding_window": True, "sliding_window": 6, "max_window_layers": 1},
    "qwen3": {"use_sliding_window": True, "sliding_window": 6, "max_window_layers": 1},
    "gemma3_text": {"sliding_window": 6},
    "olmo3": {"sliding_window": 6},
    "cohere2": {"sliding_window": 6},
    "exaone4": {"sliding_window": 6},
}


@pytest.mark.parametrize("family", WINDOWS)
def test_windows_are_kept_by_lengths(family: str) -> None:
    """On a GPU these blocks need no mask. A block's window is narrower than the documents here, not than the probe."""
    model, batch = model_of(family, **WINDOWS[family]), packed_batch()
    reference = alone(model, batch)
    register()
    model.set_attn_implementation(NAME)
    with observed() as calls, torch.no_grad():
        packed, _ = attention.logits(model, batch, "segments")
    assert {call.window for call in calls} - {None} == {6}
    assert attention._windows_told(calls, model, 32)
    scale = max(1.0, float(reference.abs().max()))
    assert float((packed[0] - reference).abs().max()) <= 4e-6 * scale
    # a model whose code keeps a window to itself is found out, and so is one that a row is too short to show
    without = [call._replace(window=None) for call in calls]
    assert not attention._windows_told(without, model, 32) and attention._windows_told(without, model, 6)


@pytest.mark.parametrize("family", ["falcon", "gpt_neo"])
def test_a_model_that_keeps_its_own_attention_is_not_taken_for_one_by_lengths(family: str) -> None:
    """Its masks keep documents apart in one row of all rows too, but those grow with its square (GPT-Neo's end)."""
    changes = {"gpt_neo": {"attention_types": [[["global", "local", "global"], 1]]}}
    model = model_of(family, **changes.get(family, {}))
    assert not attention.by_lengths(model, 32, torch.device("cpu"), torch.float32)


def test_chunks_of_attention_are_in_masks_only() -> None:
    model = model_of("llama")
    model.config.attention_chunk_size = 16
    assert not attention._windows_told([], model, 32)


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


def test_the_probe_is_in_float32_whatever_the_run_is_in() -> None:
    """Rounding in half precision is as large as a leak in deep models."""
    model, seen = model_of("llama"), []
    model.lm_head.register_forward_hook(lambda _module, _inputs, output: seen.append(output.dtype))
    with torch.autocast("cpu", torch.bfloat16):
        assert attention.choose(model, 32) == "mask"
    assert set(seen) == {torch.float32}


def test_calls_of_the_function_are_observed() -> None:
    model = model_of("llama")
    register()
    model.set_attn_implementation(NAME)
    with observed() as calls:
        assert attention.holds(model, "segments")
    config = model.config
    size = config.hidden_size // config.num_attention_heads
    call = Call(config.num_attention_heads, config.num_key_value_heads, size, size, size**-0.5)
    assert calls == [call] * config.num_hidden_layers


def by_lengths(model: Any, seq_len: int, *_: Any) -> attention.Mode:
    """What `choose` comes to on a GPU."""
    register()
    model.set_attn_implementation(NAME)
    assert attention.holds(model, "segments")
    return "segments"


def test_a_run_by_lengths_is_the_run_by_masks(
    stories: Path, corpus: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The way of a GPU on a CPU, with the probe of the head and evaluations, which have no lengths."""
    results = []
    for way in ("mask", "lengths"):
        if way == "lengths":
            monkeypatch.setattr(attention, "choose", by_lengths)
        settings = CptSettings(
            model=str(stories), out=str(tmp_path / way), data=[str(corpus)], eval=[f"texts={corpus}"],
            tokens=512, seq_len=32, batch_tokens=128, lr=1e-3, device="cpu",
        )  # fmt: skip
        results.append(run_cpt(settings))
    a, b = results
    assert a.final_loss == pytest.approx(b.final_loss, rel=1e-5)
    for one, other in zip(a.eval, b.eval, strict=True):
        assert one["nats_per_token"] == pytest.approx(other["nats_per_token"], rel=1e-5)


def test_rows_without_lengths_are_refused_where_they_might_be_packed() -> None:
    model = model_of("llama")
    ids = torch.arange(3, 11)[None]
    items = [Item(np.arange(3, 3 + n), np.arange(n) > 0, 1, n, n) for n in (8, 5, 2)]
    with torch.no_grad():
        reference, nats = model(input_ids=ids, use_cache=False).logits, score(model, items, 16).nats
        by_lengths(model, 32)
        assert score(model, items, 16).nats == pytest.approx(nats, rel=1e-6)
        with attention.texts():
            assert torch.allclose(model(input_ids=ids, use_cache=False).logits, reference, atol=1e-5)
        with pytest.raises(ValueError, match="with their lengths"):
            model(input_ids=ids, use_cache=False)


@pytest.mark.parametrize(("seq_len", "served"), [(32, False), (16, True)])
def test_a_teacher_is_held_to_its_own_windows(seq_len: int, served: bool, tmp_path: Path) -> None:
    """It attends as the student does; rows longer than what its blocks see by lengths are refused."""
    model = model_of("llama")
    model.config.attention_chunk_size = 16
    model.save_pretrained(tmp_path)
    other = OtherModel(resolve(str(tmp_path)), Checkpoint.open(tmp_path))
    given = (other, model_of("llama"), "segments", seq_len, torch.device("cpu"), torch.float32, False)
    if served:
        assert load_teacher(*given).forward.mode == "segments"
    else:
        with pytest.raises(UsageError, match="cannot keep documents apart as the model does"):
            load_teacher(*given)

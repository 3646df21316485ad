"""A language model out of a multimodal one and back: the same logits, the same bytes, and what is refused."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from multimodal_models import KINDS, logits
from multimodal_steps import IDS, config, deeper, extracted, grafted

from surgeon.checkpoint.index import Checkpoint
from surgeon.checkpoint.lineage import read_lineage
from surgeon.checkpoint.reader import read, to_bytes
from surgeon.errors import SurgeonError, UsageError
from surgeon.multimodal.extract import ExtractSettings
from surgeon.operations import described, perform
from surgeon.verify import verify

Model = Callable[..., Path]


@pytest.mark.parametrize("kind", KINDS)
def test_out_deeper_and_back(model: Model, tmp_path: Path, kind: str) -> None:
    """Bit-identical logits at every station; what went in unchanged comes back byte for byte."""
    whole = model(kind)
    before = logits(whole, True, IDS)
    text = extracted(whole, tmp_path / "text")
    assert torch.equal(logits(text, False, IDS), before)
    deep = deeper(text, tmp_path / "deep", [2, 3])
    assert torch.equal(logits(deep, False, IDS), before)
    assert torch.equal(logits(grafted(whole, deep, tmp_path / "whole"), True, IDS), before)
    depths = [config(folder)["text_config"]["num_hidden_layers"] for folder in (whole, tmp_path / "whole")]
    assert depths[1] == depths[0] + 2
    back = grafted(whole, text, tmp_path / "back")
    assert config(back) == config(whole)
    was, now = Checkpoint.open(whole).tensors, Checkpoint.open(back).tensors
    assert was.keys() == now.keys()
    assert all(to_bytes(read(was[name])) == to_bytes(read(now[name])) for name in was)
    for folder in (text, tmp_path / "whole"):
        assert verify(folder, function=True)["holds"]


@pytest.mark.parametrize("kind", ["gemma3", "qwen3_vl"])
def test_images_are_read_as_before(model: Model, tmp_path: Path, kind: str) -> None:
    whole = model(kind)
    deep = deeper(extracted(whole, tmp_path / "text"), tmp_path / "deep", [2])
    out = grafted(whole, deep, tmp_path / "out")
    generator = torch.Generator().manual_seed(0)
    ids = torch.cat([torch.tensor([[5, *[500] * 4, 7]]), IDS], dim=1)
    if kind == "gemma3":
        images: dict[str, Any] = {"pixel_values": torch.randn(1, 3, 28, 28, generator=generator)}
        images["token_type_ids"] = (ids == 500).long()
    else:
        images = {
            "pixel_values": torch.randn(16, 3 * 2 * 14 * 14, generator=generator),
            "image_grid_thw": torch.tensor([[1, 4, 4]]),
            "mm_token_type_ids": (ids == 500).int(),
        }
    before = logits(whole, True, ids, **images)
    assert not torch.equal(before, logits(whole, True, ids, **(images | {"pixel_values": images["pixel_values"] * 2})))
    assert torch.equal(logits(out, True, ids, **images), before)


def test_new_tokens_and_training_come_along(model: Model, tmp_path: Path, corpus: Path) -> None:
    from surgeon.train.settings import CptSettings
    from surgeon.vocab.settings import ExtendVocabSettings

    whole = model("gemma3")
    text = extracted(whole, tmp_path / "text")
    perform("extend-vocab", ExtendVocabSettings(model=str(text), out=tmp_path / "more", corpus=[str(corpus)], add=6))
    old = IDS.clamp(max=499)
    out = grafted(whole, tmp_path / "more", tmp_path / "out")
    assert torch.equal(logits(out, True, old)[..., :512], logits(tmp_path / "more", False, old)[..., :512])
    assert config(out)["text_config"]["vocab_size"] == 518
    assert (out / "tokenizer.json").read_bytes() == (tmp_path / "more" / "tokenizer.json").read_bytes()
    assert (out / "preprocessor_config.json").read_bytes() == (whole / "preprocessor_config.json").read_bytes()
    assert not (text / "preprocessor_config.json").exists()
    perform("cpt", CptSettings(
        model=str(text), out=str(tmp_path / "taught"), data=(str(corpus),), tokens=64, seq_len=16, batch_tokens=64,
        lr=1e-2, device="cpu",
    ))  # fmt: skip
    taught = logits(grafted(whole, tmp_path / "taught", tmp_path / "out2"), True, IDS)
    assert torch.equal(taught, logits(tmp_path / "taught", False, IDS))
    assert not torch.equal(taught, logits(whole, True, IDS))


def test_a_head_of_its_own(model: Model, tmp_path: Path, corpus: Path) -> None:
    """A tied language model that got a head is untied in the multimodal one too."""
    from surgeon.vocab.settings import ExtendVocabSettings

    whole = model("gemma3")
    assert config(whole)["tie_word_embeddings"] is True
    text = extracted(whole, tmp_path / "text")
    settings = ExtendVocabSettings(model=str(text), out=tmp_path / "more", corpus=[str(corpus)], add=6, untie=True)
    perform("extend-vocab", settings)
    out = grafted(whole, tmp_path / "more", tmp_path / "out")
    assert "language_model.lm_head.weight" in Checkpoint.open(out).tensors
    assert config(out)["tie_word_embeddings"] is False
    assert torch.equal(logits(out, True, IDS), logits(tmp_path / "more", False, IDS))


def test_what_stays_behind_is_said(model: Model, tmp_path: Path) -> None:
    found = described("extract-language-model", ExtractSettings(model=str(model("qwen3_5")), out=tmp_path / "out"))
    tensors = Checkpoint.open(model("qwen3_5")).tensors
    assert found["left"] == {"model.visual": sum("visual" in name for name in tensors)}
    assert not (tmp_path / "out").exists()


def test_a_text_model_under_the_names_of_the_whole(model: Model, tmp_path: Path) -> None:
    """As transformers saves the text part of Qwen 3.5."""
    from transformers import AutoModelForCausalLM

    AutoModelForCausalLM.from_pretrained(model("qwen3_5")).save_pretrained(tmp_path / "saved")
    assert "model.language_model.embed_tokens.weight" in Checkpoint.open(tmp_path / "saved").tensors
    with pytest.raises(SurgeonError) as told:
        deeper(tmp_path / "saved", tmp_path / "deep", [1])
    assert "extract-language-model" in told.value.hint
    text = extracted(tmp_path / "saved", tmp_path / "text")
    assert torch.equal(logits(text, False, IDS), logits(model("qwen3_5"), True, IDS))
    with pytest.raises(UsageError, match="a language model alone"):
        grafted(tmp_path / "saved", text, tmp_path / "out")


def test_other_positions_keep_how_an_images_are_shared(model: Model, tmp_path: Path) -> None:
    from surgeon.context.plan import ExtendContextSettings

    whole = model("qwen2_5_vl")
    text = extracted(whole, tmp_path / "text")
    perform("extend-context", ExtendContextSettings(model=str(text), out=tmp_path / "long", rope_base=500_000))
    out = grafted(whole, tmp_path / "long", tmp_path / "out")
    rope = config(out)["text_config"]["rope_parameters"]
    assert rope["rope_theta"] == 500_000 and rope["mrope_section"] == [1, 1, 2]
    assert torch.equal(logits(out, True, IDS), logits(tmp_path / "long", False, IDS))
    parents = read_lineage(out)
    assert parents is not None and [p.role for p in parents.parents] == ["model", "language_model"]


def test_a_config_without_parts(model: Model, tmp_path: Path) -> None:
    """As Qwen2.5-VL lies on the hub: the language model's keys at the top, the old spelling of rotary positions."""
    from surgeon.context.plan import ExtendContextSettings

    whole = tmp_path / "whole"
    shutil.copytree(model("qwen2_5_vl"), whole)
    said = config(whole)
    text = said.pop("text_config")
    rope = text.pop("rope_parameters")
    text |= {
        "rope_scaling": {"type": "mrope", "mrope_section": rope["mrope_section"]},
        "rope_theta": rope["rope_theta"],
    }
    (whole / "config.json").write_text(json.dumps({**text, **said}))
    before = logits(whole, True, IDS)
    part = extracted(whole, tmp_path / "text")
    assert "mrope" not in (part / "config.json").read_text()
    assert torch.equal(logits(part, False, IDS), before)
    assert config(grafted(whole, part, tmp_path / "back")) == config(whole)
    deep = grafted(whole, deeper(part, tmp_path / "deep", [1]), tmp_path / "out")
    assert torch.equal(logits(deep, True, IDS), before)
    perform("extend-context", ExtendContextSettings(model=str(part), out=tmp_path / "long", rope_base=500_000))
    long = grafted(whole, tmp_path / "long", tmp_path / "long-out")
    assert torch.equal(logits(long, True, IDS), logits(tmp_path / "long", False, IDS))
    assert not torch.equal(logits(long, True, IDS), before)


def test_a_language_model_saved_by_transformers(model: Model, tmp_path: Path) -> None:
    """It says nothing of what is the default of its class: an untied head, which the multimodal model had tied."""
    from transformers import AutoModelForCausalLM

    whole = model("qwen3_vl", tie_word_embeddings=True)
    text = extracted(whole, tmp_path / "text")
    assert config(text)["tie_word_embeddings"] is True
    free = AutoModelForCausalLM.from_pretrained(text, tie_word_embeddings=False)
    with torch.no_grad():
        free.lm_head.weight.mul_(2)
    free.save_pretrained(tmp_path / "free")
    said = config(tmp_path / "free")
    said.pop("tie_word_embeddings", None)
    (tmp_path / "free" / "config.json").write_text(json.dumps(said))
    out = grafted(whole, tmp_path / "free", tmp_path / "out")
    assert config(out)["tie_word_embeddings"] is False
    assert config(out)["text_config"].keys() <= config(whole)["text_config"].keys() | {"tie_word_embeddings"}
    assert torch.equal(logits(out, True, IDS), logits(tmp_path / "free", False, IDS))
    said |= {"use_sliding_window": True, "sliding_window": 8, "max_window_layers": 0}
    said.pop("layer_types", None)
    (tmp_path / "free" / "config.json").write_text(json.dumps(said))
    with pytest.raises(SurgeonError, match="does not know"):
        grafted(whole, tmp_path / "free", tmp_path / "windowed")


def test_language_models_of_two_multimodal_ones_merge(model: Model, tmp_path: Path) -> None:
    """A fine-tune of the whole by other software: its language model and the base's meet as any two models do."""
    from safetensors.torch import load_file, save_file

    from surgeon.merge.settings import MergeSettings

    taught = tmp_path / "taught"
    shutil.copytree(model("gemma3"), taught)
    held = load_file(taught / "model.safetensors")
    save_file({name: t * 1.5 for name, t in held.items()}, taught / "model.safetensors", metadata={"format": "pt"})
    parts = [extracted(whole, tmp_path / n) for whole, n in ((model("gemma3"), "base"), (taught, "tuned"))]
    perform("merge-task-vectors", MergeSettings(base=str(parts[0]), out=tmp_path / "out", add=[str(parts[1])]))
    assert torch.equal(logits(tmp_path / "out", False, IDS), logits(parts[1], False, IDS))
    deep = grafted(taught, deeper(parts[1], tmp_path / "deep", [1]), tmp_path / "whole")
    with pytest.raises(SurgeonError, match="does not have"):  # where a lineage begins, no depth is aligned
        again = extracted(deep, tmp_path / "again")
        perform("merge-task-vectors", MergeSettings(base=str(parts[0]), out=tmp_path / "no", add=[str(again)]))


def test_what_was_operated_on_comes_out_again_and_meets_by_the_lineage_given(
    model: Model, tmp_path: Path, corpus: Path
) -> None:
    """Out, deeper, with new tokens, in and out again: the steps are not in its lineage, and --lineage tells them."""
    from surgeon.merge.settings import MergeSettings
    from surgeon.vocab.settings import ExtendVocabSettings

    text = extracted(model("gemma3"), tmp_path / "text")
    deep = deeper(text, tmp_path / "deep", [1])
    wide = tmp_path / "wide"
    perform(
        "extend-vocab",
        ExtendVocabSettings(model=str(deep), out=wide, corpus=[str(corpus)], add=8, init="weighted_pieces"),
    )
    again = extracted(grafted(model("gemma3"), wide, tmp_path / "whole"), tmp_path / "again")
    settings = {"base": str(text), "add": [f"{again}=0.5"]}
    with pytest.raises(SurgeonError, match=r"does not have|has no tensor") as refused:
        perform("merge-task-vectors", MergeSettings(out=tmp_path / "no", **settings))
    assert "--lineage" in refused.value.hint
    perform("merge-task-vectors", MergeSettings(out=tmp_path / "one", lineage=wide / "surgeon.json", **settings))
    perform("merge-task-vectors", MergeSettings(out=tmp_path / "other", base=str(text), add=[f"{wide}=0.5"]))
    assert (tmp_path / "one" / "model.safetensors").read_bytes() == (
        tmp_path / "other" / "model.safetensors"
    ).read_bytes()

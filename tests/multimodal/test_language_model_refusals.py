"""What is refused of a multimodal model and its language model, and what its class says of ties."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from multimodal_models import logits
from multimodal_steps import IDS, config, deeper, extracted, grafted

from surgeon.errors import SurgeonError, UsageError
from surgeon.operations import perform

Model = Callable[..., Path]


def test_features_of_images_stay_behind_their_blocks(model: Model, tmp_path: Path) -> None:
    """DeepStack adds them behind the first blocks: a copy among these would move them."""
    whole = model("qwen3_vl")
    text = extracted(whole, tmp_path / "text")
    with pytest.raises(SurgeonError, match="behind its first 2 blocks"):
        grafted(whole, deeper(text, tmp_path / "deep", [0]), tmp_path / "out")
    (tmp_path / "deep2").mkdir()
    deep = deeper(text, tmp_path / "deep2" / "m", [3])
    (deep / "surgeon.json").unlink()
    with pytest.raises(SurgeonError, match="behind its first 2 blocks"):
        grafted(whole, deep, tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_what_is_no_such_model_is_refused(model: Model, tmp_path: Path, stories: Path) -> None:
    with pytest.raises(UsageError, match="a language model alone already"):
        extracted(stories, tmp_path / "out")
    with pytest.raises(SurgeonError, match="other parts beside the language model") as told:
        deeper(model("gemma3"), tmp_path / "out", [1])
    assert "extract-language-model" in told.value.hint
    with pytest.raises(SurgeonError, match="model_type is 'llama'"):
        grafted(model("gemma3"), stories, tmp_path / "out")
    with pytest.raises(SurgeonError, match="model_type is 'qwen3_vl'"):
        grafted(model("qwen3_vl"), model("qwen3_vl"), tmp_path / "out")
    unnamed = tmp_path / "unnamed"
    shutil.copytree(model("mistral3"), unnamed)
    (unnamed / "config.json").write_text(json.dumps(config(unnamed) | {"architectures": None}))
    with pytest.raises(SurgeonError, match="names no class"):
        grafted(unnamed, extracted(unnamed, tmp_path / "of-unnamed"), tmp_path / "out")
    narrow = extracted(model("mistral3"), tmp_path / "text")
    changed = config(narrow) | {"vocab_size": 256}
    (narrow / "config.json").write_text(json.dumps(changed))
    with pytest.raises(SurgeonError, match="has 256 rows and had 512"):
        grafted(model("mistral3"), narrow, tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_what_cannot_be_read_as_a_language_model_names_the_way(model: Model) -> None:
    from surgeon.loading import load_model, load_skeleton

    for load in (load_skeleton, lambda folder: load_model(folder, device=torch.device("cpu"), dtype=torch.float32)):
        with pytest.raises(SurgeonError, match="not the architecture of a causal language model") as told:
            load(model("mistral3"))
        assert "extract-language-model" in told.value.hint


def test_a_head_that_only_a_default_ties(model: Model, tmp_path: Path) -> None:
    """As Mistral Small 3.1 lies on the hub: the class ties by default, the file holds a head of other values."""
    from safetensors.torch import load_file, save_file

    whole = tmp_path / "whole"
    shutil.copytree(model("mistral3"), whole)
    held = load_file(whole / "model.safetensors")
    head = held["language_model.model.embed_tokens.weight"] * 2
    save_file(held | {"language_model.lm_head.weight": head}, whole / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(SurgeonError, match="ties the head to the embedding"):
        extracted(whole, tmp_path / "text")
    said = config(whole)
    del said["tie_word_embeddings"]
    (whole / "config.json").write_text(json.dumps(said))
    text = extracted(whole, tmp_path / "text")
    assert config(text)["tie_word_embeddings"] is False
    before = logits(whole, True, IDS)
    assert torch.equal(logits(text, False, IDS), before) and not torch.equal(
        before, logits(model("mistral3"), True, IDS)
    )
    back = grafted(whole, deeper(text, tmp_path / "deep", [1]), tmp_path / "back")
    assert torch.equal(logits(back, True, IDS), before)


def test_a_class_that_leaves_tying_to_its_part() -> None:
    """BLIP-2 holds a causal model, and its own configuration has no word on tying; that of its part decides."""
    from surgeon.multimodal.part import own_config

    small = {"hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2, "ffn_dim": 32, "vocab_size": 64}
    for tied in (True, False):
        text = small | {"model_type": "opt", "word_embed_proj_dim": 16, "tie_word_embeddings": tied}
        whole = {"model_type": "blip-2", "architectures": ["Blip2ForConditionalGeneration"], "text_config": text}
        assert own_config(whole, "config.json")["tie_word_embeddings"] is tied


def test_a_new_token_in_the_place_of_an_image(model: Model, tmp_path: Path, corpus: Path) -> None:
    """The tokenizer did not name the id of images, so that the first new token got it: its text would be an image."""
    from surgeon.vocab.settings import ExtendVocabSettings

    whole = tmp_path / "whole"
    shutil.copytree(model("gemma3"), whole)
    (whole / "config.json").write_text(json.dumps(config(whole) | {"image_token_index": 512}))
    text = extracted(whole, tmp_path / "text")
    perform("extend-vocab", ExtendVocabSettings(model=str(text), out=tmp_path / "more", corpus=[str(corpus)], add=6))
    with pytest.raises(SurgeonError, match=r"image_token_index is 512, and .* token of that id"):
        grafted(whole, tmp_path / "more", tmp_path / "out")
    whole = tmp_path / "by-default"  # LLaVA's class says 32000 where config.json says nothing
    shutil.copytree(model("llava"), whole)
    said = config(whole)
    del said["image_token_index"]
    (whole / "config.json").write_text(json.dumps(said))
    text = extracted(whole, tmp_path / "llava")
    tokenizer = json.loads((text / "tokenizer.json").read_text())
    tokenizer["added_tokens"].append(tokenizer["added_tokens"][0] | {"id": 32000, "content": "<new>"})
    tokenizer["model"]["vocab"]["<new>"] = 32000
    (text / "tokenizer.json").write_text(json.dumps(tokenizer))
    with pytest.raises(SurgeonError, match=r"image_token_index is 32000, and .* '<new>'"):
        grafted(whole, text, tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_codes_without_a_word_of_them_are_refused(model: Model, tmp_path: Path) -> None:
    from safetensors.torch import load_file, save_file

    whole = tmp_path / "whole"
    shutil.copytree(model("llava"), whole)
    held = load_file(whole / "model.safetensors")
    name = "language_model.model.layers.0.self_attn.q_proj.weight"
    held[name] = held[name].to(torch.float8_e4m3fn)
    save_file(held, whole / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(SurgeonError, match="quantised"):
        extracted(whole, tmp_path / "out")


def test_a_scale_that_only_the_class_tells_is_not_guessed(model: Model, tmp_path: Path) -> None:
    whole = tmp_path / "whole"
    shutil.copytree(model("aya_vision"), whole)
    said = config(whole)
    (whole / "config.json").write_text(json.dumps({k: v for k, v in said.items() if k != "architectures"}))
    with pytest.raises(SurgeonError, match="logit_scale of its text part cannot be told"):
        extracted(whole, tmp_path / "text")
    said["text_config"]["logit_scale"] = 1.0  # nothing to tell
    (whole / "config.json").write_text(json.dumps({k: v for k, v in said.items() if k != "architectures"}))
    extracted(whole, tmp_path / "text")

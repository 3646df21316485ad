"""A family that nobody declared is expanded where a tiny model of it proves the copy exact, and refused elsewhere."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from test_identity import POST_NORM, expanded, fused, outputs
from tiny import FAMILIES, NOT_EXACT, UNDECLARED

from surgeon.arch import catalogue, generic
from surgeon.arch.configuration import settings_of
from surgeon.arch.family import family_of
from surgeon.arch.roles import role_by_name
from surgeon.checkpoint.index import Checkpoint
from surgeon.errors import SurgeonError
from surgeon.expand.layout import lay_out_blocks
from surgeon.expand.post_norms import find_post_norms
from surgeon.expand.proof import prove
from surgeon.expand.shrink import shrink
from surgeon.inspect_model import inspect

Tiny = Callable[..., Path]


@pytest.fixture
def nothing_declared(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(catalogue, "declarations", dict)


@pytest.mark.parametrize("family", UNDECLARED)
def test_an_undeclared_family_is_proved_and_then_exact(tiny: Tiny, tmp_path: Path, family: str) -> None:
    model = tiny(family)
    assert family_of(Checkpoint.open(model)).declaration.derived
    deeper = expanded(model, tmp_path / "out", at=[0, 2, 2, 3])
    for dtype in ("float32", "bfloat16"):
        for before, after in zip(outputs(model, dtype), outputs(deeper, dtype), strict=True):
            assert torch.equal(before, after)
    assert load_depth(deeper) == 8


def test_zeros_that_the_expansion_planned_are_no_finding(tiny: Tiny, tmp_path: Path) -> None:
    assert inspect(Checkpoint.open(expanded(tiny("afmoe"), tmp_path / "out", at=[2])))["warnings"] == []


def load_depth(folder: Path) -> int:
    family = family_of(Checkpoint.open(folder))
    return int(json.loads((folder / "config.json").read_text())[family.depth_key])


@pytest.mark.parametrize("family", NOT_EXACT)
def test_a_family_whose_blocks_depend_on_their_number_is_refused(tiny: Tiny, tmp_path: Path, family: str) -> None:
    with pytest.raises(SurgeonError, match="not shown to leave the function as it is"):
        expanded(tiny(family), tmp_path / "out", at=[0, 3])
    assert not (tmp_path / "out").exists()


def test_the_proof_is_of_the_very_plan(tiny: Tiny, tmp_path: Path) -> None:
    """Only the last block of GPT-NeoX Japanese has an attention bias: it cannot be copied, the others can."""
    model = tiny("gpt_neox_japanese")
    assert torch.equal(outputs(model)[0], outputs(expanded(model, tmp_path / "out", at=[0, 1]))[0])


def test_the_measured_difference_is_said(tiny: Tiny, tmp_path: Path) -> None:
    with pytest.raises(SurgeonError, match=r"logits differ by up to [0-9.]+ \(float32\)"):
        expanded(tiny("diffllama"), tmp_path / "out", at=[0])


@pytest.mark.parametrize(
    ("config", "key"),
    [({"num_kv_shared_layers": 2}, "num_kv_shared_layers"), ({"hidden_size_per_layer_input": 8}, "hidden_size_per")],
)
def test_shared_caches_and_embeddings_for_every_block_are_refused(
    tiny: Tiny, tmp_path: Path, config: dict[str, Any], key: str
) -> None:
    with pytest.raises(SurgeonError) as caught:
        expanded(tiny("gemma4_text", **config), tmp_path / "out", at=[0])
    assert key in caught.value.where


@pytest.mark.usefixtures("nothing_declared")
@pytest.mark.parametrize("family", FAMILIES)
def test_what_is_derived_is_what_is_declared(tiny: Tiny, family: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """The rule by names against every declaration: where the embedding, the head, the blocks and the writers are."""
    checkpoint = Checkpoint.open(tiny(family))
    derived = family_of(checkpoint)
    monkeypatch.undo()
    declared = family_of(checkpoint)
    assert derived.declaration.derived and not declared.declaration.derived
    for field in ("block_prefix", "depth", "depth_key", "embedding", "head", "tied", "transposed"):
        assert getattr(derived, field) == getattr(declared, field), field
    assert derived.final_norm in (declared.final_norm, None)
    for name in checkpoint.tensors:
        unit = declared.unit(name)
        if unit.block is not None:
            assert derived.is_residual_writer(unit.part) == declared.is_residual_writer(unit.part), name
            assert derived.role(name) in (declared.role(name), "other"), name


@pytest.mark.usefixtures("nothing_declared")
@pytest.mark.parametrize("family", [*POST_NORM, "llama", "cohere", "mixtral"])
def test_norms_behind_the_branches_are_found(tiny: Tiny, family: str, monkeypatch: pytest.MonkeyPatch) -> None:
    checkpoint = Checkpoint.open(tiny(family))
    derived = family_of(checkpoint)
    proved = prove(checkpoint, derived, lay_out_blocks(derived.depth, [1], "interleave"))
    monkeypatch.undo()
    assert proved.post_norms == family_of(checkpoint).post_norms


@pytest.mark.usefixtures("nothing_declared")
def test_a_writer_that_the_rule_misses_is_found_out(
    tiny: Tiny, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def misled(part: str) -> str:
        return "mlp.up" if part == "mlp.down_proj" else role_by_name(part)

    generic._derive.cache_clear()
    monkeypatch.setattr(generic, "role_by_name", misled)
    with pytest.raises(SurgeonError, match="logits differ by up to"):
        expanded(tiny("llama"), tmp_path / "out", at=[1])
    generic._derive.cache_clear()


@pytest.mark.usefixtures("nothing_declared")
def test_a_checkpoint_that_is_not_its_class_is_refused(tiny: Tiny, tmp_path: Path) -> None:
    from safetensors.torch import load_file, save_file

    folder = tmp_path / "m"
    folder.mkdir()
    (folder / "config.json").write_bytes((tiny("llama") / "config.json").read_bytes())
    state = load_file(tiny("llama") / "model.safetensors")
    state["model.layers.2.mlp.further_norm.weight"] = torch.ones(32)
    save_file(state, folder / "model.safetensors", {"format": "pt"})
    with pytest.raises(SurgeonError, match="further_norm"):
        expanded(folder, tmp_path / "out", at=[1])


@pytest.mark.usefixtures("nothing_declared")
def test_experts_in_one_tensor_are_proved_in_that_layout(tiny: Tiny, tmp_path: Path) -> None:
    model = fused(tiny("qwen3_moe"), tmp_path / "fused")
    deeper = expanded(model, tmp_path / "out", at=[0, 1, 3])
    assert torch.equal(outputs(model)[0], outputs(deeper)[0])


def test_find_post_norms_is_empty_for_a_model_without(tiny: Tiny) -> None:
    checkpoint = Checkpoint.open(tiny("llama"))
    logits = outputs(tiny("llama"))[0]
    assert find_post_norms(tiny("llama"), family_of(checkpoint), logits) == {}


@pytest.mark.parametrize("model_type", ["gptj", "afmoe", "deepseek_v3", "phimoe", "falcon_h1", "gpt_oss", "llama"])
def test_a_full_sized_configuration_becomes_small_and_keeps_what_its_blocks_are(model_type: str) -> None:
    from transformers import AutoConfig, AutoModelForCausalLM

    full = AutoConfig.for_model(model_type).to_dict()
    small = shrink(full)
    blocks = {key for key in full if "layer" in key or "block" in key or key.endswith(("_bias", "_freq"))}
    assert {key: small[key] for key in blocks} == {key: full[key] for key in blocks}
    with torch.device("meta"):
        model = AutoModelForCausalLM.from_config(settings_of(small))
    assert model.num_parameters() < 200_000 * model.config.num_hidden_layers
    assert small["vocab_size"] == 97

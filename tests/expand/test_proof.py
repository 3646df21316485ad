"""A family that nobody declared is expanded where a tiny model of it proves the copy exact, and refused elsewhere."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from test_identity import BY_COST, POST_NORM, expanded, fused, outputs
from tiny import FAMILIES, NOT_EXACT, UNDECLARED

from surgeon.arch import catalogue, generic
from surgeon.arch.configuration import settings_of
from surgeon.arch.declaration import Branches
from surgeon.arch.family import family_of
from surgeon.arch.roles import role_by_name
from surgeon.checkpoint.index import Checkpoint
from surgeon.errors import SurgeonError, UsageError
from surgeon.expand.layout import lay_out_blocks
from surgeon.expand.plan import ExpandSettings, plan_expand
from surgeon.expand.post_norms import find_post_norms, with_post_norms
from surgeon.expand.proof import prove
from surgeon.expand.shrink import shrink
from surgeon.inspect_model import inspect
from surgeon.measure.function import same_function
from surgeon.ops.plan import Zeros

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


def renamed(model_type: str, folder: Path, **config: Any) -> Path:
    """A model whose tensors have other names in a checkpoint than in memory."""
    from transformers import CONFIG_MAPPING, AutoConfig, AutoModelForCausalLM

    if model_type not in CONFIG_MAPPING:
        pytest.skip(f"this transformers has no {model_type}")
    sizes = {"vocab_size": 97, "hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 3}
    heads = {"num_attention_heads": 4, "num_key_value_heads": 2, "eos_token_id": 2, "pad_token_id": 0}
    settings = AutoConfig.for_model(model_type, **sizes, **heads, **config)
    AutoModelForCausalLM.from_config(settings).save_pretrained(folder)
    return folder


def test_an_embedding_that_is_renamed_on_loading(tmp_path: Path) -> None:
    experts = {"num_experts": 4, "num_experts_per_tok": 2, "moe_intermediate_size": 16, "first_k_dense_replace": 1}
    model = renamed("sarvam_moe", tmp_path / "model", **experts)
    assert family_of(Checkpoint.open(model)).embedding == "model.word_embeddings.weight"
    out = expanded(model, tmp_path / "out", at=[2])
    assert same_function(model, out, [list(range(3, 40))]).holds


def test_blocks_that_are_renamed_on_loading_are_refused(tmp_path: Path) -> None:
    with pytest.raises(SurgeonError, match="have other names in memory than in the checkpoint"):
        expanded(renamed("exaone", tmp_path / "model"), tmp_path / "out", at=[1])


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


@pytest.mark.parametrize("family", BY_COST)
def test_a_declaration_says_of_norms_what_a_tiny_model_shows(tiny: Tiny, family: str) -> None:
    found = family_of(Checkpoint.open(tiny(family)))
    shown = with_post_norms(found.declaration, find_post_norms(tiny(family), found))
    assert shown == found.declaration


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
    family = family_of(checkpoint)
    none = Branches({}, family.residual_writers)
    assert find_post_norms(tiny("llama"), family) == [none] * family.depth
    assert with_post_norms(family.declaration, [none]) is family.declaration


def test_norms_are_found_block_by_block_and_branch_by_branch(tiny: Tiny) -> None:
    """OLMo hybrid has them behind both branches of its full attention blocks, A.X-K1 behind the experts."""
    hybrid = find_post_norms(tiny("olmo_hybrid"), family_of(Checkpoint.open(tiny("olmo_hybrid"))))
    linear = Branches({}, ("linear_attn.o_proj", "mlp.down_proj"))
    # transformers saves the first of the two under the name that it has in the linear blocks
    full = Branches({"feedforward_layer_norm": 0.0, "post_feedforward_layernorm": 0.0})
    assert hybrid == [linear, linear, linear, full]
    experts = Branches({"post_mlp_layernorm": 0.0}, ("self_attn.o_proj",))
    dense = Branches({}, ("mlp.down_proj", "self_attn.o_proj"))
    assert find_post_norms(tiny("axk1"), family_of(Checkpoint.open(tiny("axk1")))) == [dense, *[experts] * 3]


def test_names_that_transformers_reads_and_would_not_write_are_proved_too(tiny: Tiny, tmp_path: Path) -> None:
    """OLMo hybrid as its converter writes it: the norm behind attention has the name that it has in memory."""
    from safetensors.torch import load_file, save_file

    model = shutil.copytree(tiny("olmo_hybrid"), tmp_path / "m")
    held = load_file(model / "model.safetensors")
    norm = "model.layers.3.post_attention_layernorm.weight"
    held[norm] = held.pop("model.layers.3.feedforward_layer_norm.weight")
    save_file(held, model / "model.safetensors", {"format": "pt"})
    deeper = expanded(model, tmp_path / "out", at=[0, 3])
    assert torch.equal(outputs(tiny("olmo_hybrid"))[0], outputs(deeper)[0])
    new = load_file(deeper / "model.safetensors")
    assert not new[norm.replace(".3.", ".5.")].any() and torch.equal(new[norm.replace(".3.", ".4.")], held[norm])


def test_auto_silences_each_branch_where_it_ends(tiny: Tiny, tmp_path: Path) -> None:
    plan = plan_expand(ExpandSettings(model=str(tiny("axk1")), out=tmp_path / "out", at=[0, 2]))
    zeros = {t.name for t in plan.tensors if t.source == Zeros()}
    dense = {"model.layers.1.self_attn.o_proj.weight", "model.layers.1.mlp.down_proj.weight"}
    assert zeros == dense | {"model.layers.4.self_attn.o_proj.weight", "model.layers.4.post_mlp_layernorm.weight"}
    assert plan.lineage.blocks is not None
    assert [new.lr_multipliers for new in plan.lineage.blocks.new] == [{}, {"post_mlp_layernorm": 10.0}]


def test_norm_gain_wants_a_norm_behind_every_branch_of_the_block(tiny: Tiny, tmp_path: Path) -> None:
    model = tiny("olmo_hybrid")
    plan_expand(ExpandSettings(model=str(model), out=tmp_path / "out", at=[3], fill="norm_gain"))
    with pytest.raises(UsageError, match=r"does not have behind 'linear_attn.o_proj' in block 1"):
        plan_expand(ExpandSettings(model=str(model), out=tmp_path / "out", at=[1, 3], fill="norm_gain"))


def test_a_class_of_several_residual_streams_is_refused_for_that(tiny: Tiny, tmp_path: Path) -> None:
    """DeepSeek-V4, complete: its head lies on the disk as head.weight."""
    model = tiny("deepseek_v4")
    assert family_of(Checkpoint.open(model)).head == "head.weight"
    with pytest.raises(SurgeonError, match="mixes several residual streams") as caught:
        expanded(model, tmp_path / "out", at=[1])
    assert caught.value.where == "config.json: hc_mult"


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


@pytest.mark.parametrize("family", ["persimmon", "modernbert-decoder"])
def test_a_tiny_model_that_cannot_be_run_is_no_proof(tiny: Tiny, tmp_path: Path, family: str) -> None:
    """head_dim, which their attention ignores, makes the rotary positions of another size than the heads."""
    model = shutil.copytree(tiny(family), tmp_path / "m")
    config = json.loads((model / "config.json").read_text())
    (model / "config.json").write_text(json.dumps(config | {"head_dim": 8.0}))
    with pytest.raises(SurgeonError, match="a tiny model cannot be run: The size of tensor a") as caught:
        expanded(model, tmp_path / "out", at=[1])
    assert caught.value.hint and caught.value.where == str(model)

"""Names to blocks, parts and roles on real checkpoints of every family; what is not known is refused by name."""

from __future__ import annotations

import dataclasses
import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from safetensors.torch import load_file, save_file
from tiny import FAMILIES

from surgeon.arch.catalogue import declarations
from surgeon.arch.family import Unit, family_of, family_of_names
from surgeon.checkpoint.index import Checkpoint
from surgeon.errors import SurgeonError

Tiny = Callable[..., Path]


def edited(folder: Path, to: Path, **config: Any) -> Path:
    """A copy of a checkpoint with other values in its config.json (None removes a key)."""
    shutil.copytree(folder, to)
    values = json.loads((to / "config.json").read_text()) | config
    (to / "config.json").write_text(json.dumps({k: v for k, v in values.items() if v is not None}))
    return to


def renamed(folder: Path, to: Path, change: Callable[[dict[str, Any]], dict[str, Any]]) -> Path:
    """A copy of a checkpoint with other tensors."""
    shutil.copytree(folder, to)
    save_file(change(load_file(to / "model.safetensors")), to / "model.safetensors")
    return to


@pytest.mark.parametrize("family", FAMILIES)
def test_every_tensor_has_a_role_and_a_name_that_leads_back(tiny: Tiny, family: str) -> None:
    checkpoint = Checkpoint.open(tiny(family))
    found = family_of(checkpoint)
    assert found.depth == checkpoint.config[found.depth_key]
    for name in checkpoint.tensors:
        unit, role = found.unit(name), found.role(name)
        assert role != "buffer"
        if unit.block is not None:
            assert found.block_tensor(unit.block, unit.part, unit.leaf) == name
            assert name.startswith(found.block_prefix)
            assert found.rename(name, unit.block) == name
    assert sorted(n for block in found.blocks for n in block) + sorted(found.outside()) == sorted(
        n for block in found.blocks for n in block
    ) + sorted(n for n in checkpoint.tensors if found.unit(n).block is None)
    roles = {found.role(name) for name in checkpoint.tensors}
    assert "embedding" in roles and ("head" in roles) == (found.head is not None)
    assert (found.head is None) == found.tied
    for block in range(found.depth):
        there = {found.part_role(part) for part in found.parts(block)}
        assert there & {"attention.o", "mixer.out"}
        assert there & {"mlp.down", "moe.expert.down"} or found.name == "mamba2"


def test_roles_of_llama_golden(tiny: Tiny) -> None:
    found = family_of(Checkpoint.open(tiny("llama_bias")))
    assert found.role("model.embed_tokens.weight") == "embedding"
    assert found.role("lm_head.weight") == "head"
    assert found.role("model.norm.weight") == "final_norm"
    assert found.role("model.layers.3.self_attn.q_proj.bias") == "attention.q"
    assert found.role("model.layers.3.mlp.down_proj.weight") == "mlp.down"
    assert found.unit("model.layers.3.mlp.down_proj.weight") == Unit(3, "mlp.down_proj", "weight")
    assert found.unit("model.norm.weight") == Unit(None, "model.norm", "weight")
    assert found.is_residual_writer("self_attn.o_proj") and not found.is_residual_writer("self_attn.q_proj")
    assert found.residual_writers == ("self_attn.o_proj", "mlp.down_proj")


def test_the_number_of_an_expert_is_not_the_number_of_a_block(tiny: Tiny) -> None:
    found = family_of(Checkpoint.open(tiny("mixtral")))
    name = "model.layers.2.block_sparse_moe.experts.1.w2.weight"
    assert found.unit(name) == Unit(2, "block_sparse_moe.experts.1.w2", "weight")
    assert found.rename(name, 5) == "model.layers.5.block_sparse_moe.experts.1.w2.weight"
    assert found.role(name) == "moe.expert.down" and found.is_residual_writer("block_sparse_moe.experts.1.w2")
    assert found.role("model.layers.2.block_sparse_moe.gate.weight") == "moe.router"


def test_declared_ties_and_depth_keys_are_those_of_transformers() -> None:
    from transformers import AutoConfig

    for declared in declarations().values():
        config = AutoConfig.for_model(declared.model_type)
        assert config.tie_word_embeddings == declared.tied, declared.model_type
        assert declared.depth_key in config.to_dict(), declared.model_type
        for key in declared.derived_lists:
            assert isinstance(getattr(config, key), list), (declared.model_type, key)


def test_all_per_block_lists_of_transformers_are_declared() -> None:
    """A list with one entry per block that a configuration class derives is known to the declaration."""
    from transformers import AutoConfig

    for declared in declarations().values():
        config = AutoConfig.for_model(declared.model_type, **{declared.depth_key: 17})
        lists = {key for key, value in config.to_dict().items() if isinstance(value, list) and len(value) == 17}
        # numbers of blocks are as many as there are blocks where all are of that kind
        assert lists - set(declared.index_lists) == set(declared.derived_lists) - set(declared.index_lists)


def test_gpt2_without_its_prefix_and_with_buffers_of_old_checkpoints(tiny: Tiny, tmp_path: Path) -> None:
    import torch

    def bare(tensors: dict[str, Any]) -> dict[str, Any]:
        found = {name.removeprefix("transformer."): tensor for name, tensor in tensors.items()}
        return found | {f"h.{i}.attn.bias": torch.ones(1, 1, 8, 8).tril() for i in range(4)}

    found = family_of(Checkpoint.open(renamed(tiny("gpt2"), tmp_path / "bare", bare)))
    assert found.block_prefix == "h." and found.embedding == "wte.weight" and found.position == "wpe.weight"
    assert found.role("h.0.attn.bias") == "buffer" and found.role("h.0.attn.c_attn.bias") == "attention.qkv"
    assert found.transposed and found.tied and found.head is None


def test_a_tied_head_that_is_stored_is_named(tiny: Tiny, tmp_path: Path) -> None:
    def stored(tensors: dict[str, Any]) -> dict[str, Any]:
        return tensors | {"lm_head.weight": tensors["model.embed_tokens.weight"].clone()}

    found = family_of(Checkpoint.open(renamed(tiny("qwen3"), tmp_path / "m", stored)))
    assert found.tied and found.head == "lm_head.weight"


@pytest.mark.parametrize(
    ("config", "problem"),
    [
        ({"model_type": "llama9"}, "the architecture 'llama9' is not known to transformers"),
        ({"model_type": "bert", "architectures": ["BertForMaskedLM"]}, "BertForMaskedLM"),
        ({"model_type": "t5"}, "not the architecture of a causal language model"),
        ({"quantization_config": {"quant_method": "mxfp4"}}, "the weights are quantised"),
        ({"model_type": None}, "names no model_type"),
        ({"model_type": "gemma3", "text_config": {}}, "other parts beside the language model"),
        ({"architectures": ["LlamaForSequenceClassification"]}, "LlamaForSequenceClassification"),
        ({"num_hidden_layers": 3}, "belongs to a block that config.json does not count"),
        ({"num_hidden_layers": 5}, "block 4 is missing or incomplete"),
        ({"num_hidden_layers": None}, "how many blocks"),
        ({"num_hidden_layers": True}, "how many blocks"),
    ],
)
def test_refusals_of_a_config(tiny: Tiny, tmp_path: Path, config: dict[str, Any], problem: str) -> None:
    folder = edited(tiny("llama"), tmp_path / "m", **config)
    with pytest.raises(SurgeonError) as caught:
        family_of(Checkpoint.open(folder))
    assert problem in caught.value.problem and caught.value.hint


def test_blocks_that_predict_further_tokens_are_refused_by_name(tiny: Tiny) -> None:
    """DeepSeek V3 as on the hub has one more block than config.json counts; transformers leaves it out."""
    checkpoint = Checkpoint.open(tiny("deepseek_v3"))
    further = [n.replace("layers.3.", "layers.4.") for n in checkpoint.tensors if "layers.3." in n]
    with pytest.raises(SurgeonError, match=r"model\.layers\.4\.") as caught:
        family_of_names(checkpoint.config, [*checkpoint.tensors, *further, "model.layers.4.eh_proj.weight"])
    assert "MTP" in caught.value.hint


@pytest.mark.parametrize(
    "extra", ["model.layers.0.mlp.mystery.weight", "model.layers.1.mlp.down_proj.weight_scale", "vision.patch.weight"]
)
def test_a_tensor_without_a_place_is_refused_by_name(tiny: Tiny, extra: str) -> None:
    checkpoint = Checkpoint.open(tiny("llama"))
    with pytest.raises(SurgeonError) as caught:
        family_of_names(checkpoint.config, [*checkpoint.tensors, extra])
    assert extra in caught.value.problem


def test_an_absent_head_that_is_not_tied_is_refused(tiny: Tiny) -> None:
    checkpoint = Checkpoint.open(tiny("llama"))
    with pytest.raises(SurgeonError, match=r"lm_head\.weight"):
        family_of_names(checkpoint.config, [n for n in checkpoint.tensors if n != "lm_head.weight"])


def test_the_family_names_are_their_file_names() -> None:
    import importlib

    for model_type, declared in declarations().items():
        module = importlib.import_module(f"surgeon.arch.families.{model_type}")
        assert module.FAMILY is declared and dataclasses.is_dataclass(declared)


def test_declarations_and_plans_need_no_torch() -> None:
    import subprocess
    import sys

    code = (
        "import sys, surgeon.arch.meta, surgeon.arch.config_blocks, surgeon.expand.plan, surgeon.inspect_model;"
        "from surgeon.arch.catalogue import declarations; declarations();"
        "print([m for m in ('torch', 'transformers', 'numpy') if m in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def coded(folder: Path, to: Path, dtype: str, ending: str) -> Path:
    """A copy in which the tensors of this name hold codes."""
    import torch

    element = getattr(torch, dtype)
    return renamed(folder, to, lambda held: {n: t.to(element) if n.endswith(ending) else t for n, t in held.items()})


@pytest.mark.parametrize("dtype", ["int8", "uint8", "bool", "int32", "float8_e4m3fn", "float8_e5m2"])
@pytest.mark.parametrize(
    ("family", "ending"),
    [
        ("llama", "down_proj.weight"),
        ("gpt2", "c_attn.weight"),
        ("gptj", "q_proj.weight"),
        ("qwen3_moe", "gate.weight"),
    ],
)
def test_weights_that_are_codes_are_refused_though_no_configuration_says_so(
    tiny: Tiny, tmp_path: Path, dtype: str, family: str, ending: str
) -> None:
    folder = coded(tiny(family), tmp_path / "m", dtype, ending)
    with pytest.raises(SurgeonError, match="the weights are quantised, and surgery needs plain ones") as caught:
        family_of(Checkpoint.open(folder))
    assert ending in caught.value.where and caught.value.hint


def test_masks_positions_and_tables_may_be_whole_numbers(tiny: Tiny, tmp_path: Path) -> None:
    import torch

    def masked(tensors: dict[str, Any]) -> dict[str, Any]:
        mask = torch.ones(1, 1, 8, 8, dtype=torch.uint8)
        return tensors | {f"transformer.h.{block}.attn.bias": mask.clone() for block in range(4)}

    for family in ("gpt2", "gptj"):  # declared, and derived from its names
        checkpoint = Checkpoint.open(renamed(tiny(family), tmp_path / family, masked))
        assert family_of(checkpoint).role("transformer.h.0.attn.bias") in ("buffer", "other")
    table = coded(tiny("deepseek_v4"), tmp_path / "v4", "int64", ".tid2eid")
    checkpoint = Checkpoint.open(table)
    assert family_of(checkpoint).depth == 4 and "I64" in {t.dtype for t in checkpoint.tensors.values()}


def test_a_tied_head_of_other_values_is_refused(stories: Path, tmp_path: Path) -> None:
    """transformers 5 would read it as a head of its own; what is stored twice with the same bytes is one matrix."""
    import torch
    from safetensors.torch import load_file, save_file

    held = load_file(stories / "model.safetensors")
    embedding = held["model.embed_tokens.weight"]
    other = embedding.clone()
    other[-1, -1] += 1
    longer = torch.cat([embedding, embedding])
    heads = {"same": embedding.clone(), "other": other, "longer": longer, "shorter type": embedding.half()}
    for name, head in heads.items():
        shutil.copytree(stories, tmp_path / name)
        save_file(held | {"lm_head.weight": head}, tmp_path / name / "model.safetensors", metadata={"format": "pt"})
    assert family_of(Checkpoint.open(tmp_path / "same")).tied
    for name, told in (
        ("other", r"lm_head\.weight holds other values than model\.embed_tokens\.weight"),
        ("longer", r"lm_head\.weight is F32 \[1024, 64\], model\.embed_tokens\.weight F32 \[512, 64\]"),
        ("shorter type", r"lm_head\.weight is F16 \[512, 64\], model\.embed_tokens\.weight F32"),
    ):
        with pytest.raises(SurgeonError, match=told):
            family_of(Checkpoint.open(tmp_path / name))
    config = json.loads((tmp_path / "other" / "config.json").read_text()) | {"tie_word_embeddings": False}
    (tmp_path / "other" / "config.json").write_text(json.dumps(config))
    assert not family_of(Checkpoint.open(tmp_path / "other")).tied

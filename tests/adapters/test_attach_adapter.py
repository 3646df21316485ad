"""A fresh adapter loads in plain peft without a warning and changes nothing, on every kind of architecture."""

from __future__ import annotations

import json
import math
import warnings
from pathlib import Path
from typing import Any

import pytest
import tiny
import torch
from safetensors.torch import load_file

from surgeon.adapters.attach import AttachSettings, plan_attach
from surgeon.adapters.blocks import chosen_blocks
from surgeon.adapters.inspect import adapter_is_identity, inspect_adapter
from surgeon.checkpoint.lineage import BlockMap, Lineage, NewBlock, Parent
from surgeon.checkpoint.new_blocks import new_blocks
from surgeon.errors import SurgeonError, UsageError
from surgeon.ops.execute import execute


def attach(model: Path, out: Path, **settings: Any) -> Path:
    execute(plan_attach(AttachSettings(model=str(model), out=out, **settings)), out)
    return out


def loaded(model: Path, adapter: Path | None = None) -> Any:
    from peft import PeftModel
    from transformers import AutoModelForCausalLM

    base = AutoModelForCausalLM.from_pretrained(model).eval()
    if adapter is None:
        return base
    with warnings.catch_warnings():
        warnings.simplefilter("error")  # of missing or unexpected keys, of fan_in_fan_out
        warnings.simplefilter("ignore", FutureWarning)  # between peft and transformers
        return PeftModel.from_pretrained(base, adapter).eval()


def run(model: Any) -> torch.Tensor:
    ids = torch.randint(3, 90, (2, 12), generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        return model(input_ids=ids).logits


ATTACHED = ["llama", "gpt2", "gpt_neox", "phi3", "qwen3_moe", "mixtral", "gemma3_text", "lfm2", "deepseek_v3"]


@pytest.mark.parametrize("family", ATTACHED)
def test_attached_changes_no_logit_and_has_exactly_pefts_keys(family: str, tmp_path: Path) -> None:
    from peft import get_peft_model_state_dict

    model = tiny.build(family, tmp_path / "model")
    out = attach(model, tmp_path / "adapter", rank=4, scaling="rank-stabilized")
    with_adapter = loaded(model, out)
    assert torch.equal(run(with_adapter), run(loaded(model)))
    held = load_file(out / "adapter_model.safetensors")
    expected = get_peft_model_state_dict(with_adapter)
    assert {n: t.shape for n, t in held.items()} == {n: t.shape for n, t in expected.items()}
    assert all(torch.equal(held[n], expected[n]) for n in held)
    assert adapter_is_identity(out)[0]
    assert inspect_adapter(out)["scaling"] == [32 / math.sqrt(4)]


def test_all_linear_is_what_peft_calls_all_linear(tmp_path: Path) -> None:
    from peft import LoraConfig, get_peft_model, get_peft_model_state_dict

    model = tiny.build("llama_bias", tmp_path / "model")
    ours = load_file(attach(model, tmp_path / "adapter") / "adapter_model.safetensors")
    theirs = get_peft_model_state_dict(get_peft_model(loaded(model), LoraConfig(r=16, target_modules="all-linear")))
    assert {n: t.shape for n, t in ours.items()} == {n: t.shape for n, t in theirs.items()}


def test_roles_and_blocks_choose_the_modules(stories: Path, tmp_path: Path) -> None:
    out = attach(stories, tmp_path / "adapter", rank=2, targets="attention.q,mlp.down", blocks="0-1,4")
    modules = inspect_adapter(out)["modules"]
    names = ("mlp.down_proj", "self_attn.q_proj")
    assert modules == sorted(f"model.layers.{b}.{n}" for b in (0, 1, 4) for n in names)
    assert torch.equal(run(loaded(stories, out)), run(loaded(stories)))
    config = json.loads((out / "adapter_config.json").read_text())
    assert (config["target_modules"], config["layers_to_transform"]) == (["down_proj", "q_proj"], [0, 1, 4])


@pytest.mark.parametrize(
    ("family", "targets", "names"),
    [
        ("gpt2", "attention.o", ["attn.c_proj"]),
        ("gpt_neox", "attention.o", ["dense"]),
        ("mixtral", "attention.q", ["q_proj"]),
    ],
)
def test_a_name_shared_by_two_parts_is_told_apart(family: str, targets: str, names: list[str], tmp_path: Path) -> None:
    model = tiny.build(family, tmp_path / "model")
    out = attach(model, tmp_path / "adapter", rank=2, targets=targets, blocks="1,2")
    assert json.loads((out / "adapter_config.json").read_text())["target_modules"] == names
    attached = [n for n, _ in loaded(model, out).named_modules() if n.endswith(".lora_A")]
    assert [n.removeprefix("base_model.model.").removesuffix(".lora_A") for n in attached] == inspect_adapter(out)[
        "modules"
    ]


def test_a_is_uniform_as_in_peft_and_follows_the_seed(stories: Path, tmp_path: Path) -> None:
    first = load_file(attach(stories, tmp_path / "a", rank=16) / "adapter_model.safetensors")
    same = load_file(attach(stories, tmp_path / "b", rank=16) / "adapter_model.safetensors")
    other = load_file(attach(stories, tmp_path / "c", rank=16, seed=1) / "adapter_model.safetensors")
    name = "base_model.model.model.layers.0.self_attn.q_proj.lora_A.weight"
    assert torch.equal(first[name], same[name]) and not torch.equal(first[name], other[name])
    assert not torch.equal(first[name], first[name.replace("q_proj", "k_proj")])
    bound = 1 / math.sqrt(64)
    assert first[name].abs().max() <= bound
    assert abs(first[name].std().item() - bound / math.sqrt(3)) < 0.05 * bound


def test_new_blocks_are_followed_through_the_lineage() -> None:
    def step(source: list[int], new: list[int], parent: Lineage | None) -> Lineage:
        entries = [NewBlock(block=b, source=source[b], fill="zero") for b in new]
        parents = [Parent(role="model", name="m", path="", digest="d", lineage=parent)]
        return Lineage(operation="x", kind="surgery", blocks=BlockMap(source=source, new=entries), parents=parents)

    first = step([0, 1, 1, 2], [2], None)
    training = Lineage(
        operation="cpt", kind="training", parents=[Parent(role="model", name="m", path="", digest="e", lineage=first)]
    )
    second = step([0, 0, 1, 2, 3], [1], training)
    # what was trained before the last expansion is not new any more; what is trained after it stays new
    assert list(new_blocks(second)) == [1] and list(new_blocks(second, every=True)) == [1, 3]
    assert chosen_blocks("new", 5, second, "here") == [1]
    assert list(new_blocks(training)) == [2]
    twice = step([0, 0, 1, 2, 3], [1], first)
    assert {block: entry.source for block, entry in new_blocks(twice).items()} == {1: 0, 3: 1}
    undone = step([0, 2, 3, 4], [], twice)
    assert list(new_blocks(undone)) == [2]
    with pytest.raises(SurgeonError, match="no new blocks"):
        chosen_blocks("new", 5, None, "here")


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"targets": "attention.qq"}, "attention.q"),
        ({"targets": "moe.router"}, "no role"),
        ({"targets": "final_norm"}, "no linear module"),
        ({"blocks": "5"}, "0-4"),
        ({"blocks": "3-1"}, "0-4"),
        ({"kind": "lara"}, "lora"),
    ],
)
def test_wrong_words_are_refused(stories: Path, tmp_path: Path, settings: dict[str, Any], words: str) -> None:
    with pytest.raises(UsageError) as refused:
        plan_attach(AttachSettings(model=str(stories), out=tmp_path / "out", **settings))
    assert words in str(refused.value)


def test_on_the_new_blocks_of_a_deeper_model(stories: Path, tmp_path: Path) -> None:
    from surgeon.expand.plan import ExpandSettings, plan_expand

    deep = tmp_path / "deep"
    execute(plan_expand(ExpandSettings(model=str(stories), out=deep, at=[1, 3])), deep)
    out = attach(deep, tmp_path / "adapter", blocks="new", rank=2)
    assert {m.split(".")[2] for m in inspect_adapter(out)["modules"]} == {"2", "5"}
    assert torch.equal(run(loaded(deep, out)), run(loaded(stories)))

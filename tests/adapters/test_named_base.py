"""An adapter of PEFT's own that names a model from before an expansion does not land on other blocks."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from peft import LoraConfig, get_peft_model
from run_cli import surgeon
from safetensors.torch import load_file
from transformers import AutoModelForCausalLM

from surgeon.errors import SurgeonError
from surgeon.operations import operation, perform


@pytest.fixture
def here(stories: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """base: blocks 0 to 4. deep: 0, 1, a copy of 1, 2, 3, 4. adapter: of base's blocks 0 and 3."""
    monkeypatch.chdir(tmp_path)
    shutil.copytree(stories, "base")
    carried_out("expand-layers", model="base", out="deep", at=[1])
    torch.manual_seed(0)
    model = AutoModelForCausalLM.from_pretrained("base", dtype=torch.float32)
    wrapped = get_peft_model(model, LoraConfig(r=2, target_modules=["q_proj"], layers_to_transform=[0, 3]))
    for parameter in wrapped.parameters():
        if parameter.requires_grad:
            parameter.data += 0.1 * torch.randn_like(parameter)
    wrapped.save_pretrained("adapter")
    return tmp_path


def carried_out(name: str, **settings: Any) -> None:
    perform(name, operation(name).settings_class().model_validate(settings))


def naming(model: str) -> None:
    path = Path("adapter/adapter_config.json")
    path.write_text(json.dumps(json.loads(path.read_text()) | {"base_model_name_or_path": model}))


def queries(folder: str) -> list[torch.Tensor]:
    held = load_file(f"{folder}/model.safetensors")
    depth = json.loads(Path(folder, "config.json").read_text())["num_hidden_layers"]
    return [held[f"model.layers.{block}.self_attn.q_proj.weight"] for block in range(depth)]


@pytest.mark.parametrize("named", ["base", "base/", "ABSOLUTE", "copy/base", "someone/base", "/gone/base"])
def test_an_adapter_that_names_the_model_before_is_refused(here: Path, named: str) -> None:
    if named == "copy/base":
        shutil.copytree("base", named)
    naming(str(here / "base") if named == "ABSOLUTE" else named)
    with pytest.raises(SurgeonError) as refusal:
        carried_out("fold-adapter", model="deep+adapter", out="folded")
    assert "names base as its model" in refusal.value.problem and "block 3 is block 4 now" in refusal.value.problem
    assert "--onto MODEL" in refusal.value.hint and not Path("folded").exists()


@pytest.mark.parametrize("words", [("evaluate", "deep+adapter"), ("cpt", "deep+adapter", "out", "--train", "adapter")])
def test_only_options_that_the_command_has_are_advised(here: Path, words: tuple[str, ...]) -> None:
    Path("t.jsonl").write_text('{"text": "Once upon a time there was a little dog."}\n' * 20)
    done = surgeon(*words, "--data", "t.jsonl", "--tokens", "64")
    assert done.code == 1 and "block 3 is block 4 now" in done.err
    assert "or fold it first (surgeon fold-adapter --any-base)" in done.err


def test_the_way_that_is_named_puts_it_where_the_block_is_now(here: Path) -> None:
    carried_out("merge-task-vectors", base="base", out="carried", add=["base+adapter=1.0"], onto="deep")
    carried_out("fold-adapter", model="base+adapter", out="folded")
    old, carried, folded = queries("deep"), queries("carried"), queries("folded")
    assert [i for i in range(6) if not torch.equal(old[i], carried[i])] == [0, 4]
    assert torch.equal(carried[0], folded[0]) and torch.equal(carried[4], folded[3])


@pytest.mark.parametrize("named", ["deep", "someone/else", "other/base"])
def test_one_that_names_the_model_or_a_stranger_is_folded_by_its_numbers(here: Path, named: str) -> None:
    if named == "other/base":  # a folder of the ancestor's name that holds something else
        shutil.copytree("deep", named)
    naming(named)
    carried_out("fold-adapter", model="deep+adapter", out="folded")
    assert [i for i, (a, b) in enumerate(zip(queries("deep"), queries("folded"), strict=True)) if not a.equal(b)] == [
        0,
        3,
    ]


def test_blocks_that_did_not_move_are_no_reason(here: Path) -> None:
    carried_out("expand-layers", model="base", out="at-end", at=[3])
    carried_out("fold-adapter", model="at-end+adapter", out="folded")
    assert not torch.equal(queries("folded")[3], queries("base")[3])


def test_an_ancestor_from_behind_the_expansion_is_no_reason(here: Path) -> None:
    carried_out("extend-context", model="deep", out="long", rope_base=500000)
    naming("deep")
    carried_out("fold-adapter", model="long+adapter", out="folded")
    naming("base")
    with pytest.raises(SurgeonError, match="block 3 is block 4 now"):
        carried_out("fold-adapter", model="long+adapter", out="folded-again")


def test_the_folder_of_a_model_that_was_deepened_in_place_says_nothing(here: Path) -> None:
    """It held the model from before too: an adapter of all of its blocks went onto others without a word."""
    model = AutoModelForCausalLM.from_pretrained("base", dtype=torch.float32)
    get_peft_model(model, LoraConfig(r=2, target_modules=["q_proj"])).save_pretrained("before")
    carried_out("expand-layers", model="base", out="base", in_place=True, at=[1])
    with pytest.raises(SurgeonError, match="all that the model had before it was deepened"):
        carried_out("fold-adapter", model="base+before", out="folded")
    model = AutoModelForCausalLM.from_pretrained("base", dtype=torch.float32)
    get_peft_model(model, LoraConfig(r=2, target_modules=["q_proj"])).save_pretrained("since")
    carried_out("fold-adapter", model="base+since", out="folded")
    naming("base")  # of blocks 0 and 3, of then or of now
    carried_out("fold-adapter", model="base+adapter", out="folded-too")

"""What is gathered together: the plan of transformers where it fits the model, else the blocks."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn
from torchrun import in_several
from transformers import AutoConfig, AutoModelForCausalLM

from surgeon.train.blocks import blocks_of
from surgeon.train.sharding import units

PROGRAM = Path(__file__).with_name("sharding_run.py")


def empty(family: str, **changes: Any) -> Any:
    with torch.device("meta"):
        return AutoModelForCausalLM.from_config(AutoConfig.for_model(family, **changes))


def named(model: Any) -> list[tuple[list[str], bool]]:
    names = {id(module): name for name, module in model.named_modules()}
    return [([names[id(m)] for m in unit.modules], unit.freed) for unit in units(model, list(blocks_of(model)))]


def test_by_the_plan() -> None:
    model = empty("llama", num_hidden_layers=2, tie_word_embeddings=False)
    assert named(model) == [
        (["model.layers.0"], True),
        (["model.layers.1"], True),
        (["model.embed_tokens"], True),
        (["lm_head", "model.norm"], False),
    ]


@pytest.mark.parametrize(
    ("family", "changes", "blocks"),
    [
        ("llama", {"num_hidden_layers": 2, "tie_word_embeddings": True}, "model.layers"),
        ("gpt2", {"n_layer": 2}, "transformer.h"),  # its plan names modules that it does not have
        ("gpt_neox", {"num_hidden_layers": 2, "tie_word_embeddings": False}, "gpt_neox.layers"),
    ],
)
def test_blocks_alone(family: str, changes: dict[str, Any], blocks: str) -> None:
    assert named(empty(family, **changes)) == [([f"{blocks}.{number}"], True) for number in range(2)]


def test_an_adapter_is_divided_with_what_it_is_on() -> None:
    from peft import LoraConfig, get_peft_model

    model = empty("llama", num_hidden_layers=2, tie_word_embeddings=False)
    adapted = get_peft_model(model, LoraConfig(target_modules=["q_proj", "lm_head"], trainable_token_indices=[3]))
    found = units(adapted, list(blocks_of(adapted)))
    assert [unit.freed for unit in found] == [True, True, True, False]
    held = {id(p) for unit in found for module in unit.modules for p in module.parameters()}
    assert held == {id(p) for p in adapted.parameters()}


def test_a_model_without_a_plan() -> None:
    class Plain(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.layers = nn.ModuleList([nn.Linear(2, 2), nn.Linear(2, 2)])

    model = Plain()
    assert [unit.modules for unit in units(model, list(model.layers))] == [(layer,) for layer in model.layers]


def test_embeddings_are_let_go_of_and_a_tied_matrix_is_not(tmp_path: Path) -> None:
    target = tmp_path / "found.json"
    done = in_several(PROGRAM, str(target))
    assert done.returncode == 0, done.stderr[-3000:]
    untied, tied = (json.loads(target.read_text())[key] for key in ("False", "True"))
    # in the second block: on the way there and back
    assert untied == {
        "embeddings": [False, False], "block": [True, True], "head": [False, False], "loss in the head": True,
    }  # fmt: skip
    assert tied == {
        "embeddings": [True, True], "block": [True, True], "head": [True, True], "loss in the head": True,
    }  # fmt: skip

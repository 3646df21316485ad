"""Kinds of adapters whose tensors do not all lie where a divided model has them: rows, and buffers."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from safetensors.torch import load_file
from torchrun import in_several

from surgeon.train.run import run_cpt
from surgeon.train.settings import CptSettings

PROGRAM = Path(__file__).with_name("parallel_run.py")


def adapter(model: Path, target: Path, kind: str) -> Path:
    import torch
    from peft import LoraConfig, OFTConfig, VeraConfig, get_peft_model
    from transformers import AutoModelForCausalLM

    config: Any = {
        "rows of a tied matrix": lambda: LoraConfig(
            r=4, target_modules=["q_proj", "down_proj"], trainable_token_indices=[3, 300, 511]
        ),
        "vera": lambda: VeraConfig(r=8, target_modules=["q_proj", "v_proj"]),  # its projections are buffers
        "oft": lambda: OFTConfig(r=0, oft_block_size=4, target_modules=["q_proj"]),  # has buffers that are not saved
    }[kind]()
    torch.manual_seed(1)
    get_peft_model(AutoModelForCausalLM.from_pretrained(model), config).save_pretrained(target)
    return target


@pytest.mark.parametrize(
    "kind", ["rows of a tied matrix", "vera", pytest.param("oft", marks=pytest.mark.long)]
)  # fmt: skip
def test_two_processes_train_it_as_one(kind: str, tiny: Callable[..., Path], corpus: Path, tmp_path: Path) -> None:
    model = tiny("llama", tie_word_embeddings=True)
    options = {
        "model": f"{model}+{adapter(model, tmp_path / 'adapter', kind)}", "data": [str(corpus)], "tokens": 320,
        "seq_len": 16, "batch_tokens": 80, "micro_batch": 2, "lr": 1e-3, "device": "cpu", "train": "adapter",
    }  # fmt: skip
    run_cpt(CptSettings(**options, out=str(tmp_path / "one")))
    done = in_several(PROGRAM, json.dumps(options | {"out": str(tmp_path / "two")}))
    assert done.returncode == 0, done.stderr[-3000:]
    before, one, two = (load_file(tmp_path / n / "adapter_model.safetensors") for n in ("adapter", "one", "two"))
    assert before.keys() == one.keys() == two.keys()
    assert any(not one[n].equal(before[n]) for n in one)
    for name, value in one.items():
        assert float((two[name].double() - value.double()).abs().max()) <= 1e-5 * max(1.0, float(value.abs().max()))

"""The derived check: the model that transformers builds has the names and shapes of the checkpoint."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from tiny import FAMILIES

from surgeon.arch.meta import check_config, model_tensors
from surgeon.checkpoint.index import Checkpoint
from surgeon.errors import SurgeonError

Tiny = Callable[..., Path]


def shapes(folder: Path) -> tuple[dict[str, Any], dict[str, tuple[int, ...]]]:
    checkpoint = Checkpoint.open(folder)
    return dict(checkpoint.config), {name: stored.shape for name, stored in checkpoint.tensors.items()}


@pytest.mark.parametrize("family", FAMILIES)
def test_names_and_shapes_are_derived_from_the_module_tree(tiny: Tiny, family: str) -> None:
    config, tensors = shapes(tiny(family))
    check_config(config, tensors)
    derived = model_tensors(config)
    head = {"lm_head.weight"} if config["tie_word_embeddings"] else set()
    assert set(derived) - head == set(tensors)  # experts too, split again as save_pretrained writes them
    assert all(derived[name] == shape for name, shape in tensors.items())


def test_the_real_model_passes(stories: Path) -> None:
    check_config(*shapes(stories))


@pytest.mark.parametrize("name", ["model.layers.1.self_attn.q_norm.weight", "lm_head.weight", "model.norm.weight"])
def test_an_absent_or_reshaped_tensor_is_refused(tiny: Tiny, name: str) -> None:
    config, tensors = shapes(tiny("qwen3", tie_word_embeddings=False))
    del tensors[name]
    with pytest.raises(SurgeonError, match=name.replace(".", r"\.")):
        check_config(config, tensors)
    with pytest.raises(SurgeonError, match=name.replace(".", r"\.")):
        check_config(config, tensors | {name: (3, 5)})


def test_an_expert_of_the_wrong_shape_is_refused(tiny: Tiny) -> None:
    config, tensors = shapes(tiny("mixtral"))
    name = "model.layers.2.block_sparse_moe.experts.1.w2.weight"
    with pytest.raises(SurgeonError, match=r"experts\.1\.w2"):
        check_config(config, tensors | {name: (48, 32)})


@pytest.mark.parametrize("change", [{"layer_types": ["full_attention"] * 3}, {"num_attention_heads": "four"}])
def test_a_config_that_transformers_refuses_is_refused_with_its_reason(tiny: Tiny, change: dict[str, Any]) -> None:
    config, tensors = shapes(tiny("qwen2"))
    with pytest.raises(SurgeonError, match="transformers cannot build a model"):
        check_config(config | change, tensors)


def test_rows_that_are_not_those_of_the_config_are_refused(tiny: Tiny) -> None:
    config, tensors = shapes(tiny("gemma2"))
    with pytest.raises(SurgeonError, match=r"embed_tokens"):
        check_config(config | {"vocab_size": 98}, tensors)

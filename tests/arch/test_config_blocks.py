"""Per-block configuration follows the blocks."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from surgeon.arch.config_blocks import remap_blocks
from surgeon.arch.family import Family, family_of
from surgeon.checkpoint.index import Checkpoint
from surgeon.errors import SurgeonError

Tiny = Callable[..., Path]
SOURCE = [0, 0, 1, 2, 2, 3]


def opened(folder: Path) -> tuple[dict[str, Any], Family]:
    checkpoint = Checkpoint.open(folder)
    return dict(checkpoint.config), family_of(checkpoint)


def test_lists_follow_their_blocks(tiny: Tiny) -> None:
    config, family = opened(tiny("smollm3"))
    result = remap_blocks(config, SOURCE, family)
    assert result["no_rope_layers"] == [config["no_rope_layers"][i] for i in SOURCE]
    assert result["layer_types"] == [config["layer_types"][i] for i in SOURCE]
    assert result["num_hidden_layers"] == 6
    changed = {"no_rope_layers", "layer_types", "num_hidden_layers"}
    assert {k: v for k, v in result.items() if k not in changed} == {
        k: v for k, v in config.items() if k not in changed
    }


@pytest.mark.parametrize(
    ("family", "absent", "key"),
    [
        ("gemma2", ["layer_types"], "layer_types"),
        ("gemma3_text", ["layer_types"], "layer_types"),
        ("olmo3", ["layer_types"], "layer_types"),
        ("smollm3", ["no_rope_layers"], "no_rope_layers"),
        ("qwen2", ["layer_types"], "layer_types"),
    ],
)
def test_rules_by_period_become_lists_of_the_old_rule(tiny: Tiny, family: str, absent: list[str], key: str) -> None:
    """An older config.json leaves the list to the rule; the copy must get the type of its source all the same."""
    from transformers import AutoConfig

    config, found = opened(tiny(family))
    for name in absent:
        del config[name]
    plain = {k: v for k, v in config.items() if k != "model_type"}
    expected = getattr(AutoConfig.for_model(config["model_type"], **plain), key)
    source = [0, *range(found.depth), found.depth - 1]
    result = remap_blocks(config, source, found)
    assert result[key] == [expected[i] for i in source]
    assert len(set(expected)) == 2 or family == "gemma3_text"


def test_numbers_of_dense_blocks_and_the_sparse_step_are_counted_anew(tiny: Tiny) -> None:
    config, family = opened(tiny("qwen3_moe"))
    result = remap_blocks(config, [0, 1, 1, 2, 3, 4], family)
    assert result["mlp_only_layers"] == [1, 2]
    # with experts in every second block, counted from 1: blocks 1 and 3 of 5, less those that are named dense
    stepped = remap_blocks(config | {"decoder_sparse_step": 2, "mlp_only_layers": [1]}, [0, 1, 2, 3, 3, 4], family)
    assert stepped["mlp_only_layers"] == [0, 1, 2, 5] and stepped["decoder_sparse_step"] == 1


@pytest.mark.parametrize(
    ("boundary", "source", "expected"),
    [(2, [0, 0, 1, 2, 2, 3], 3), (2, [0, 1, 2, 3, 3], 2), (4, [0, 1, 2, 2, 3], 5), (28, [0, 1, 2, 2, 3], 29)],
)
def test_a_number_of_leading_blocks_is_counted_anew(
    tiny: Tiny, boundary: int, source: list[int], expected: int
) -> None:
    config, family = opened(tiny("qwen2"))
    assert remap_blocks(config | {"max_window_layers": boundary}, source, family)["max_window_layers"] == expected


def test_no_change_of_blocks_is_no_change_of_config(tiny: Tiny) -> None:
    config, family = opened(tiny("gpt2", scale_attn_by_inverse_layer_idx=True))
    assert remap_blocks(config, range(4), family) == config


@pytest.mark.parametrize("reordered", [False, True])
def test_attention_scaled_by_the_number_of_the_block_is_refused(tiny: Tiny, reordered: bool) -> None:
    folder = tiny("gpt2", scale_attn_by_inverse_layer_idx=True, reorder_and_upcast_attn=reordered)
    config, family = opened(folder)
    with pytest.raises(SurgeonError, match="number") as caught:
        remap_blocks(config, SOURCE, family)
    assert "scale_attn_by_inverse_layer_idx" in caught.value.where


@pytest.mark.parametrize(
    ("family", "key"),
    [("bloom", "apply_residual_connection_post_layernorm"), ("mamba2", "rescale_prenorm_residual")],
)
def test_blocks_that_change_what_they_add_to_or_with_the_depth_are_refused(tiny: Tiny, family: str, key: str) -> None:
    config, found = opened(tiny(family, **{key: True}))
    with pytest.raises(SurgeonError, match="blocks cannot be copied") as caught:
        remap_blocks(config, SOURCE, found)
    assert caught.value.where == f"config.json: {key}" and caught.value.hint
    assert remap_blocks(config | {key: False}, SOURCE, found)[found.depth_key] == len(SOURCE)


def test_an_unknown_list_as_long_as_the_model_is_deep_is_refused(tiny: Tiny) -> None:
    config, family = opened(tiny("llama"))
    with pytest.raises(SurgeonError, match="head_counts"):
        remap_blocks(config | {"head_counts": [1, 2, 3, 4]}, SOURCE, family)
    stops = remap_blocks(config | {"eos_token_id": [2, 3, 4, 5]}, SOURCE, family)
    assert stops["eos_token_id"] == [2, 3, 4, 5]


def test_a_per_block_list_of_the_wrong_length_is_refused(tiny: Tiny) -> None:
    config, family = opened(tiny("qwen2"))
    with pytest.raises(SurgeonError, match="layer_types"):
        remap_blocks(config | {"layer_types": ["full_attention"] * 3}, SOURCE, family)


def test_the_old_style_config_of_gemma3_is_understood(tiny: Tiny, tmp_path: Path) -> None:
    """`sliding_window_pattern` as first released: no list, one number."""
    folder = tmp_path / "m"
    shutil.copytree(tiny("gemma3_text"), folder)
    config = json.loads((folder / "config.json").read_text())
    del config["layer_types"], config["_sliding_window_pattern"]
    (folder / "config.json").write_text(json.dumps(config | {"sliding_window_pattern": 3}))
    old, family = opened(folder)
    result = remap_blocks(old, [0, 1, 2, 2, 3, 4, 5], family)
    full, window = "full_attention", "sliding_attention"
    assert result["layer_types"] == [window, window, full, full, window, window, full]


def test_the_first_and_the_last_block_with_experts_are_counted_anew(tiny: Tiny) -> None:
    """Experts in blocks 1 and 2 of 4: ERNIE 4.5 says the first and the last."""
    config, family = opened(tiny("ernie4_5_moe"))
    result = remap_blocks(config, [0, 0, 1, 2, 2, 3], family)
    assert (result["moe_layer_start_index"], result["moe_layer_end_index"]) == (2, 4)
    open_end = remap_blocks(config | {"moe_layer_end_index": -1}, [0, 1, 2, 3, 3], family)
    assert open_end["moe_layer_end_index"] == -1


def test_block_numbers_of_llama4_become_explicit(tiny: Tiny) -> None:
    config, family = opened(tiny("llama4_text"))
    del config["moe_layers"], config["no_rope_layers"]
    result = remap_blocks(config | {"interleave_moe_layer_step": 2, "no_rope_layer_interval": 3}, SOURCE, family)
    # experts in blocks 1 and 3 (every second), no rotation in block 2 (every third)
    assert result["moe_layers"] == [2, 5] and result["no_rope_layers"] == [1, 1, 1, 0, 0, 1]


def test_entries_by_block_number_follow_their_blocks(tiny: Tiny) -> None:
    config, family = opened(tiny("llama"))
    entries = {"per_layer_config": {"0": {"a": 1}, "2": {"a": 2}}}
    result = remap_blocks(config | entries, SOURCE, family)
    assert result["per_layer_config"] == {"0": {"a": 1}, "1": {"a": 1}, "3": {"a": 2}, "4": {"a": 2}}


@pytest.mark.parametrize(("old", "new"), [(4, 6), (62, 70), (40, 44)])
def test_a_scale_by_the_depth_stays_what_it_was(tiny: Tiny, old: int, new: int) -> None:
    from surgeon.arch.config_blocks import _depth_scale

    assert abs(_depth_scale(1.4, old, new) / new**0.5 - 1.4 / old**0.5) <= 2**-53


def test_infinite_numbers_are_read_as_save_pretrained_writes_them(tiny: Tiny) -> None:
    from surgeon.arch.configuration import settings_of

    config, _ = opened(tiny("bamba"))
    assert config["time_step_limit"] == [0.0, {"__float__": "Infinity"}]
    assert list(settings_of(config).time_step_limit) == [0.0, float("inf")]

"""The check by declaration refuses what the check on the meta device refuses, where blocks are copied."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tiny import BY_TYPE, FAMILIES

from surgeon.arch.catalogue import declarations
from surgeon.arch.declared import check_declared, is_declared
from surgeon.arch.declared_shapes import sizes_of
from surgeon.arch.derived_lists import derived_list
from surgeon.checkpoint.index import Checkpoint
from surgeon.errors import SurgeonError

Tiny = Callable[..., Path]


# of these the matrices have the sizes that their roles say; the others are checked on the meta device
PLAIN = [family for family in FAMILIES if family not in BY_TYPE]
assert all(declarations()[model_type].plain_shapes is False for model_type, _ in BY_TYPE.values())


def shapes(folder: Path) -> tuple[dict[str, Any], dict[str, tuple[int, ...]]]:
    checkpoint = Checkpoint.open(folder)
    return dict(checkpoint.config), {name: stored.shape for name, stored in checkpoint.tensors.items()}


@pytest.mark.parametrize("family", PLAIN)
def test_every_family_passes_and_one_tensor_less_or_of_another_shape_does_not(tiny: Tiny, family: str) -> None:
    config, tensors = shapes(tiny(family))
    assert is_declared(config)
    check_declared(config, tensors)
    for name in tensors:
        if (".1." not in name and ".layers." in name) or (".h." in name and ".h.1." not in name):
            continue  # every tensor of one block, and all outside of the blocks
        if name.endswith(("wpe.weight", "final_layer_norm.bias", "ln_f.bias")) or only_one(name, tensors):
            continue  # nothing beside them to compare with
        with pytest.raises(SurgeonError):
            check_declared(config, {n: s for n, s in tensors.items() if n != name})
        with pytest.raises(SurgeonError):
            check_declared(config, tensors | {name: (*tensors[name][:-1], tensors[name][-1] + 1)})


def only_one(name: str, tensors: dict[str, tuple[int, ...]]) -> bool:
    """Whether no other block of its kind has this part (the dense block among those with experts)."""
    return not any(name.replace(".1.", f".{block}.", 1) in tensors for block in (0, 2, 3))


def test_rows_that_are_not_those_of_the_config_are_refused(tiny: Tiny) -> None:
    config, tensors = shapes(tiny("gemma2"))
    for change in ({"vocab_size": 98}, {"hidden_size": 33}, {"num_hidden_layers": 5}, {"num_hidden_layers": 3}):
        with pytest.raises(SurgeonError):
            check_declared(config | change, tensors)


@pytest.mark.parametrize("change", [{"intermediate_size": 49}, {"num_key_value_heads": 4}, {"head_dim": 16}])
def test_sizes_that_are_not_those_of_the_config_are_refused(tiny: Tiny, change: dict[str, Any]) -> None:
    for family in ("llama_bias", "qwen3", "phi3", "mixtral"):
        config, tensors = shapes(tiny(family))
        with pytest.raises(SurgeonError, match="json makes it"):
            check_declared(config | change, tensors)


@pytest.mark.parametrize("family", PLAIN)
def test_what_config_json_leaves_out_is_what_the_class_takes_or_left_to_it(tiny: Tiny, family: str) -> None:
    """Without a key the sizes are those of transformers, or the check on the meta device is asked."""
    from transformers import AutoConfig

    config, _ = shapes(tiny(family))
    for key in ("head_dim", "num_key_value_heads", "intermediate_size", "n_inner", "num_experts"):
        less = {k: v for k, v in config.items() if k != key}
        sizes = sizes_of(less)
        if sizes is None:
            continue
        full = AutoConfig.for_model(less["model_type"], **{k: v for k, v in less.items() if k != "model_type"})
        head_dim = getattr(full, "head_dim", None) or full.hidden_size // full.num_attention_heads
        keys = full.num_attention_heads  # GPT-2 and GPT-NeoX read no other number, even where one is there
        if family not in ("gpt2", "gpt_neox", "gpt_neox_seq"):
            keys = full.num_key_value_heads
        assert (sizes.queries, sizes.keys) == (
            full.num_attention_heads * head_dim,
            (keys or full.num_attention_heads) * head_dim,
        )
        assert sizes.inner == (
            getattr(full, "intermediate_size", None) or getattr(full, "n_inner", None) or 4 * full.hidden_size
        )


RULED = [(d.model_type, key) for d in declarations().values() if d.plain_shapes for key in d.derived_lists]


RULED = [(d.model_type, key) for d in declarations().values() if d.plain_shapes for key in d.derived_lists]


@pytest.mark.parametrize(("model_type", "key"), RULED)
@given(data=st.data())
def test_derived_lists_are_those_of_transformers(model_type: str, key: str, data: st.DataObject) -> None:
    from transformers import AutoConfig

    depth = data.draw(st.integers(1, 40))
    config = data.draw(
        st.fixed_dictionaries(
            {},
            optional={
                "use_sliding_window": st.booleans(),
                "sliding_window": st.one_of(st.none(), st.integers(2, 64)),
                "max_window_layers": st.integers(0, 40),
                "sliding_window_pattern": st.integers(1, 7),
                "no_rope_layer_interval": st.integers(1, 6),
            },
        )
    )
    if model_type != "gemma3_text":
        config.pop("sliding_window_pattern", None)
    settings = AutoConfig.for_model(model_type, num_hidden_layers=depth, **config)
    assert derived_list(model_type, key, config, depth) == list(getattr(settings, key))
    assert derived_list("llama", key, config, depth) is None


def test_layer_types_of_smollm3_follow_the_given_rope_list() -> None:
    from transformers import AutoConfig

    config = {"no_rope_layers": [0, 1, 1, 0], "use_sliding_window": True, "sliding_window": 8}
    settings = AutoConfig.for_model("smollm3", num_hidden_layers=4, **config)
    assert derived_list("smollm3", "layer_types", config, 4) == settings.layer_types

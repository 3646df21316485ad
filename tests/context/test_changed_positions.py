"""What a change of positions makes of configurations that hold a scaling, an old spelling or a nested part already."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import torch
from test_extend_context import LLAMA3, config_of, old_gemma, older

from surgeon.arch.positions import read_positions
from surgeon.context.change import Wanted, changed
from surgeon.context.edit import with_positions
from surgeon.context.frequencies import inverse_frequencies

Tiny = Callable[..., Path]


def test_a_scaling_that_is_there_keeps_the_length_it_is_of(tiny: Tiny) -> None:
    """Without its key transformers takes the longest text for it, which has just changed."""
    config = config_of(tiny("llama"))
    older(config)
    config["rope_scaling"] = {
        k: v for k, v in LLAMA3.items() if k not in ("rope_theta", "original_max_position_embeddings")
    }
    found = changed(config, Wanted(None, 4096), "c")
    assert found.after.rope["all"]["original_max_position_embeddings"] == 128
    before, after = (inverse_frequencies(c, "c") for c in (config, found.config))
    assert before == after


def test_the_old_name_of_the_type_follows(tiny: Tiny) -> None:
    config = config_of(tiny("llama"))
    older(config)
    config["rope_scaling"] = {"type": "linear", "factor": 2.0}
    found = changed(config, Wanted(None, 512, "dynamic:4"), "c").config
    assert found["rope_scaling"] == {"rope_type": "dynamic", "factor": 4.0, "type": "dynamic"}


def test_a_dynamic_scaling_with_another_length_is_told_to_begin_there(tiny: Tiny) -> None:
    """transformers scales behind max_position_embeddings: with a longer text nothing is scaled up to its end."""
    from transformers import AutoModelForCausalLM

    from surgeon.arch.configuration import settings_of

    config = config_of(tiny("llama"))
    turned = {}
    for length in (None, 512):
        found = changed(config, Wanted(None, length, "dynamic:4"), "c")
        assert any("nothing is scaled" in note for note in found.notes) is (length is not None)
        module = AutoModelForCausalLM.from_config(settings_of(found.config)).model.rotary_emb
        began = module.inv_freq.clone()
        module(torch.zeros(1), torch.arange(512)[None])
        turned[length] = not torch.equal(module.inv_freq, began)
    assert turned == {None: True, 512: False}


def test_a_nested_text_configuration(tiny: Tiny) -> None:
    from transformers import AutoConfig

    text = {k: v for k, v in config_of(tiny("gemma3_text")).items() if k != "architectures"}
    for change in (lambda c: None, old_gemma):
        inner = json.loads(json.dumps(text))
        change(inner)
        config = {"model_type": "gemma3", "text_config": inner}
        found = changed(config, Wanted(5e6, 256), "c").config
        assert found["text_config"]["max_position_embeddings"] == 256 and set(found) == set(config)
        read = AutoConfig.for_model("gemma3", **{k: v for k, v in found.items() if k != "model_type"}).text_config
        assert read.rope_parameters["full_attention"]["rope_theta"] == 5e6
        assert read.rope_parameters["sliding_attention"]["rope_theta"] == 1e4


def test_where_the_old_spelling_cannot_say_it_the_new_one_is_written(tiny: Tiny) -> None:
    """modernbert's and others' bases of two kinds of blocks: keys that rope_theta does not stand for."""
    config = config_of(tiny("gemma3_text"))
    old_gemma(config)
    before = read_positions(config)
    rope = {kind: dict(entry) for kind, entry in before.rope.items()}
    rope["sliding_attention"]["rope_theta"] = 2e4
    rope["full_attention"]["rope_theta"] = 5e6
    found = with_positions(config, rope, None, "c")
    assert found["rope_parameters"]["sliding_attention"]["rope_theta"] == 2e4
    assert "rope_local_base_freq" not in found and "rope_theta" not in found

"""What config.json leaves to its class is as much the model's as what it says: it follows the blocks too."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from test_identity import expanded, outputs

from surgeon.arch import generic
from surgeon.arch.catalogue import declarations
from surgeon.arch.declaration import Declaration
from surgeon.errors import SurgeonError

Tiny = Callable[..., Path]
# family -> (settings of the tiny model, keys that its config.json leaves out, what it says in their place)
CASES: dict[str, tuple[dict[str, Any], tuple[str, ...], dict[str, Any]]] = {
    "deepseek_v3": ({"first_k_dense_replace": 3, "num_hidden_layers": 5}, ("first_k_dense_replace",), {}),
    "glm4_moe": ({"first_k_dense_replace": 1}, ("first_k_dense_replace",), {}),
    "ernie4_5_moe": (
        {"moe_layer_start_index": 1, "moe_layer_end_index": -1},
        ("moe_layer_start_index", "moe_layer_end_index"),
        {},
    ),
    "llama4_text": ({}, ("layer_types",), {"no_rope_layers": []}),  # as on the hub
    "minicpm3": ({}, ("scale_depth",), {}),
    "afmoe": ({"num_dense_layers": 1}, ("num_dense_layers",), {}),
}


def without(shared: Path, model: Path, keys: tuple[str, ...], instead: dict[str, Any]) -> Path:
    """A copy at `model`."""
    shutil.copytree(shared, model)
    config = json.loads((model / "config.json").read_text())
    kept = {key: value for key, value in config.items() if key not in keys}
    (model / "config.json").write_text(json.dumps(kept | instead))
    return model


@pytest.mark.parametrize("family", CASES)
def test_what_the_class_takes_follows_the_blocks(tiny: Tiny, tmp_path: Path, family: str) -> None:
    settings, absent, instead = CASES[family]
    model = without(tiny(family, **settings), tmp_path / "model", absent, instead)
    before = outputs(model)
    after = outputs(expanded(model, tmp_path / "out", at=[0, 2, 3]))
    assert torch.equal(before[0], after[0])
    assert torch.equal(before[1], after[1])
    back = expanded(tmp_path / "out", tmp_path / "back", undo=True)
    assert json.loads((back / "config.json").read_text()) == json.loads((model / "config.json").read_text())


@pytest.mark.parametrize("name", [name for name, held in declarations().items() if held.boundaries])
def test_declared_defaults_are_those_of_the_class(name: str) -> None:
    from transformers import CONFIG_MAPPING

    declared, plain = declarations()[name], CONFIG_MAPPING[name]().to_dict()
    for key, instead in declared.boundaries.items():
        if key != "max_window_layers":  # read only where a list does not take precedence
            assert (plain[key] or 0) == declared.defaults.get(key, 0), (key, instead)


def test_a_setting_that_would_not_follow_is_refused(
    tiny: Tiny, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The tiny model of the proof is saved with every key, and does not show what a class takes of itself."""
    derive = generic.derive

    def forgetful(*args: Any) -> Declaration:
        return replace(derive(*args), defaults={})

    monkeypatch.setattr(generic, "derive", forgetful)
    model = without(tiny("minicpm3"), tmp_path / "model", ("scale_depth",), {})
    with pytest.raises(SurgeonError, match="has no 'scale_depth', and what its class takes does not follow"):
        expanded(model, tmp_path / "out", at=[1])

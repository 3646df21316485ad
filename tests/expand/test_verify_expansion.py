"""verify --function of an expansion: the real weights where they fit, else a tiny model of the same configuration."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from run_cli import surgeon
from test_identity import expanded
from tiny import FAMILIES

from surgeon.checkpoint.index import Checkpoint
from surgeon.checkpoint.tree_digest import weight_digest
from surgeon.errors import SurgeonError, UsageError
from surgeon.verify import verify

Tiny = Callable[..., Path]
SMALL = 1_000  # bytes: nothing fits
TINY = "same logits and greedy text on a tiny model of the same configuration"


def checks(out: Path, **options: Any) -> dict[str, dict[str, Any]]:
    return {c["check"]: c for c in verify(out, function=True, **options)["checks"]}


def sign(out: Path) -> None:
    """Make the lineage believe the weights as they are now: what is left is what the weights should be."""
    record = json.loads((out / "surgeon.json").read_text())
    record["files"]["model.safetensors"] = weight_digest(out / "model.safetensors").digest
    (out / "surgeon.json").write_text(json.dumps(record))


@pytest.mark.parametrize("family", FAMILIES)
def test_a_model_that_does_not_fit_is_proved_on_a_tiny_one(tiny: Tiny, tmp_path: Path, family: str) -> None:
    out = expanded(tiny(family), tmp_path / "out", at=[0, 2, 3])
    found = checks(out, memory=SMALL)
    assert all(c["holds"] for c in found.values()), found
    assert "do not fit into 1,000" in found[TINY]["detail"]


def test_the_real_weights_are_used_where_they_fit(stories: Path, tmp_path: Path) -> None:
    out = expanded(stories, tmp_path / "out", add=2)
    data = [str(stories.parent / "general.valid.jsonl")]
    found = checks(out, data=data)
    assert TINY not in found and found["same logits in bfloat16"]["holds"]
    with pytest.raises(UsageError, match="probe text is needed"):
        checks(out)


def test_without_a_tokenizer_it_is_said_how_to_check(tiny: Tiny, stories: Path, tmp_path: Path) -> None:
    out = expanded(tiny("llama"), tmp_path / "out", at=[1])
    with pytest.raises(SurgeonError, match="there is no tokenizer") as refused:
        checks(out, data=[str(stories.parent / "general.valid.jsonl")])
    command = f"surgeon verify {out} --function --memory 1k"
    assert refused.value.hint.endswith(command)
    done = surgeon(*command.split()[1:])
    assert done.code == 0 and "tiny model" in done.out


@pytest.mark.parametrize("memory", [SMALL, None])
def test_a_changed_weight_is_found_though_the_lineage_was_signed_again(
    stories: Path, tmp_path: Path, memory: int | None
) -> None:
    out = expanded(stories, tmp_path / "out", at=[1])
    stored = Checkpoint.open(out).tensors["model.layers.2.mlp.down_proj.weight"]  # silent: all zeros
    with stored.path.open("r+b") as file:
        file.seek(stored.start + 5)
        file.write(b"\x3f")
    sign(out)
    found = checks(out, memory=memory, data=[str(stories.parent / "general.valid.jsonl")])
    broken = found["every tensor is its source's, or what the fill set"]
    assert not broken["holds"] and "first model.layers.2.mlp.down_proj.weight" in broken["detail"]
    assert found["bytes of model.safetensors"]["holds"]


def test_a_configuration_that_says_something_else_is_found(tiny: Tiny, tmp_path: Path) -> None:
    out = expanded(tiny("qwen3"), tmp_path / "out", at=[1])
    config = json.loads((out / "config.json").read_text())
    (out / "config.json").write_text(json.dumps(config | {"rms_norm_eps": 0.1}))
    found = checks(out, memory=SMALL)
    assert not found["config.json is the parent's with its blocks put in place"]["holds"]


def test_a_fill_that_is_no_identity_promises_nothing(tiny: Tiny, tmp_path: Path) -> None:
    out = expanded(tiny("llama"), tmp_path / "out", at=[1], fill="average")
    with pytest.raises(SurgeonError, match="does not promise the same function"):
        checks(out, memory=SMALL)


def test_writers_zeroed_behind_norms_are_proved_as_they_were_filled(tiny: Tiny, tmp_path: Path) -> None:
    """The fill zero is an identity of post-norm families too, though a bad start for training."""
    out = expanded(tiny("olmo2"), tmp_path / "out", at=[1], fill="zero")
    assert checks(out, memory=SMALL)[TINY]["holds"]

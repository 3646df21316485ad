"""inspect: the JSON of the contract, and what it finds wrong in real files."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from tiny import FAMILIES, corrections

from surgeon.checkpoint.index import Checkpoint
from surgeon.errors import SurgeonError
from surgeon.expand.plan import ExpandSettings, plan_expand
from surgeon.inspect_model import inspect
from surgeon.measure import scan as scanning
from surgeon.ops.execute import execute

Tiny = Callable[..., Path]
KEYS = [
    "architecture", "model_type", "blocks", "parameters", "vocab", "rows", "tied", "dtypes", "shards", "bytes",
    "lineage",
]  # fmt: skip


def changed(folder: Path, to: Path, change: Callable[[dict[str, torch.Tensor]], None]) -> Checkpoint:
    shutil.copytree(folder, to)
    tensors = load_file(to / "model.safetensors")
    change(tensors)
    save_file(tensors, to / "model.safetensors", {"format": "pt"})
    return Checkpoint.open(to)


def kinds(found: dict[str, Any]) -> dict[tuple[str, str], tuple[int, list[int]]]:
    return {(w["kind"], w["tensor"]): (w["count"], w["rows"]) for w in found["warnings"]}


def test_the_real_model_golden(stories: Path) -> None:
    """stories260K: vocabulary 512, width 64, 5 blocks, MLP 172, 8 heads with 4 for keys and values, tied."""
    found = inspect(Checkpoint.open(stories))
    assert [key for key in KEYS if key not in found] == []
    assert found["architecture"] == "LlamaForCausalLM" and found["model_type"] == "llama"
    assert (found["blocks"], found["vocab"], found["rows"], found["tied"]) == (5, 512, 512, True)
    assert found["parameters"]["by_role"] == {
        "attention.k": 5 * 64 * 32,
        "attention.o": 5 * 64 * 64,
        "attention.q": 5 * 64 * 64,
        "attention.v": 5 * 64 * 32,
        "embedding": 512 * 64,
        "final_norm": 64,
        "mlp.down": 5 * 64 * 172,
        "mlp.gate": 5 * 64 * 172,
        "mlp.up": 5 * 64 * 172,
        "norm": 5 * 2 * 64,
    }
    assert found["parameters"]["total"] == 260032 and found["shards"] == 1 and found["lineage"] is None
    assert found["bytes"] == 4 * 260032 and found["dtypes"] == {"F32": 260032} and found["warnings"] == []
    json.dumps(found)


@pytest.mark.parametrize("family", FAMILIES)
def test_parameters_are_those_of_transformers(tiny: Tiny, family: str) -> None:
    from transformers import AutoModelForCausalLM

    found = inspect(Checkpoint.open(tiny(family)))
    model = AutoModelForCausalLM.from_pretrained(tiny(family))
    stored = model.num_parameters() + sum(buffer.numel() for buffer in corrections(model))
    assert found["parameters"]["total"] == stored == sum(found["parameters"]["by_role"].values())
    assert found["warnings"] == [] and found["vocab"] is None


def test_a_tied_head_that_is_stored_too_counts_once(stories: Path, tmp_path: Path) -> None:
    def with_head(tensors: dict[str, torch.Tensor]) -> None:
        tensors["lm_head.weight"] = tensors["model.embed_tokens.weight"].clone()

    found, before = inspect(changed(stories, tmp_path / "m", with_head)), inspect(Checkpoint.open(stories))
    assert {key: found[key] for key in ("parameters", "dtypes")} == {
        key: before[key] for key in ("parameters", "dtypes")
    }
    assert found["bytes"] == before["bytes"] + 4 * 512 * 64


def test_lineage_and_new_blocks_after_two_expansions(stories: Path, tmp_path: Path) -> None:
    once, twice = tmp_path / "once", tmp_path / "twice"
    execute(plan_expand(ExpandSettings(model=str(stories), out=once, at=[1])), once)
    execute(plan_expand(ExpandSettings(model=str(once), out=twice, at=[0, 2])), twice)
    found = inspect(Checkpoint.open(twice))
    assert found["blocks"] == 8 and found["new_blocks"] == [1, 3, 4]  # 3 from the first expansion, 4 its copy
    assert found["lineage"]["operation"] == "expand-layers" and found["lineage"]["settings"] == {"at": [0, 2]}
    (parent,) = found["lineage"]["parents"]
    assert parent["name"] == "once" and parent["lineage"]["parents"][0]["lineage"] is None
    assert found["warnings"] == []  # zeros that the expansion planned


def test_what_is_wrong_is_named(tiny: Tiny, tmp_path: Path) -> None:
    def spoil(tensors: dict[str, torch.Tensor]) -> None:
        tensors["model.layers.1.mlp.up_proj.weight"][3, :2] = torch.nan
        tensors["model.layers.2.mlp.up_proj.weight"][0, 0] = -torch.inf
        tensors["model.layers.0.self_attn.o_proj.weight"].zero_()
        tensors["model.layers.0.self_attn.o_proj.bias"].zero_()  # biases are often zero
        embedding = tensors["model.embed_tokens.weight"]
        embedding[7] = embedding[9] = embedding[3]
        embedding[11:13] = 0

    found = inspect(changed(tiny("llama_bias"), tmp_path / "m", spoil))
    assert kinds(found) == {
        ("nan", "model.layers.1.mlp.up_proj.weight"): (2, []),
        ("inf", "model.layers.2.mlp.up_proj.weight"): (1, []),
        ("zero_tensor", "model.layers.0.self_attn.o_proj.weight"): (1, []),
        ("zero_rows", "model.embed_tokens.weight"): (2, [11, 12]),
        ("duplicate_rows", "model.embed_tokens.weight"): (2, [7, 9]),
    }
    texts = {w["tensor"]: w["text"] for w in found["warnings"] if w["kind"] != "duplicate_rows"}
    assert texts == {
        "model.layers.1.mlp.up_proj.weight": "2 elements are not a number: [3, 0], [3, 1]",
        "model.layers.2.mlp.up_proj.weight": "1 element is infinite: [0, 0]",
        "model.layers.0.self_attn.o_proj.weight": "1 tensor is all zero",
        "model.embed_tokens.weight": "2 rows are all zero: 11, 12",
    }
    assert inspect(Checkpoint.open(tmp_path / "m"), deep=False)["warnings"] == []


def test_places_of_elements_are_the_first_of_them_in_order(tiny: Tiny, tmp_path: Path) -> None:
    def spoil(tensors: dict[str, torch.Tensor]) -> None:
        tensors["lm_head.weight"][2:90:10, 1] = torch.nan
        tensors["model.norm.weight"][5] = torch.inf

    nan, inf = sorted(inspect(changed(tiny("llama"), tmp_path / "m", spoil))["warnings"], key=lambda w: -w["count"])
    assert (nan["count"], nan["places"]) == (9, [[row, 1] for row in range(2, 82, 10)])
    assert nan["text"].startswith("9 elements are not a number: [2, 1], [12, 1], ") and nan["text"].endswith(", ...")
    assert (inf["count"], inf["places"], inf["text"]) == (1, [[5]], "1 element is infinite: [5]")


def test_pieces_do_not_change_what_is_found(tiny: Tiny, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def spoil(tensors: dict[str, torch.Tensor]) -> None:
        tensors["model.embed_tokens.weight"][90] = tensors["model.embed_tokens.weight"][2]
        tensors["lm_head.weight"][50] = 0
        tensors["lm_head.weight"][3:60:5, 7] = torch.nan

    checkpoint = changed(tiny("llama"), tmp_path / "m", spoil)
    whole = inspect(checkpoint)["warnings"]
    monkeypatch.setattr(scanning, "CHUNK_BYTES", 300)
    assert inspect(checkpoint)["warnings"] == whole and len(whole) == 3


def test_padding_rows_behind_the_vocabulary_are_no_finding(stories: Path, tmp_path: Path) -> None:
    def pad(tensors: dict[str, torch.Tensor]) -> None:
        name = "model.embed_tokens.weight"
        tensors[name] = torch.cat([tensors[name], torch.zeros(16, 64)])

    found = inspect(changed(stories, tmp_path / "m", pad))
    assert (found["vocab"], found["rows"], found["warnings"]) == (512, 528, [])


def test_ids_that_the_tokenizer_leaves_out_do_not_hide_its_last_ones(stories: Path, tmp_path: Path) -> None:
    """As those of cl100k, whose id 100256 is no token: rows without one are padding wherever they are."""

    def zero_rows(tensors: dict[str, torch.Tensor]) -> None:
        tensors["model.embed_tokens.weight"][[400, 510]] = 0
        tensors["model.embed_tokens.weight"][401] = tensors["model.embed_tokens.weight"][402]

    checkpoint = changed(stories, tmp_path / "m", zero_rows)
    path = tmp_path / "m" / "tokenizer.json"
    held = json.loads(path.read_text())
    gone = {token for token, number in held["model"]["vocab"].items() if number in (400, 401)}
    held["model"]["vocab"] = {t: n for t, n in held["model"]["vocab"].items() if t not in gone}
    held["model"]["merges"] = [m for m in held["model"]["merges"] if "".join(m) not in gone and not gone & set(m)]
    path.write_text(json.dumps(held))
    found = inspect(checkpoint)
    assert found["vocab"] == 510
    assert kinds(found) == {("zero_rows", "model.embed_tokens.weight"): (1, [510])}


def test_a_new_block_that_training_left_silent_is_a_finding(stories: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    execute(plan_expand(ExpandSettings(model=str(stories), out=out, at=[1])), out)
    lineage = json.loads((out / "surgeon.json").read_text())
    (out / "surgeon.json").write_text(json.dumps(lineage | {"kind": "training"}))
    found = inspect(Checkpoint.open(out))
    assert {kind for kind, _ in kinds(found)} == {"zero_tensor"} and len(found["warnings"]) == 2


def test_a_tokenizer_that_cannot_be_read_is_named(stories: Path, tmp_path: Path) -> None:
    shutil.copytree(stories, tmp_path / "m")
    (tmp_path / "m" / "tokenizer.json").write_text("junk")
    with pytest.raises(SurgeonError, match=r"tokenizer.json cannot be read"):
        inspect(Checkpoint.open(tmp_path / "m"))

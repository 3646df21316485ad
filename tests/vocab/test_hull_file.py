"""hull_weights.safetensors: what it holds, that it gives the rows, and that no loader takes it for the model's."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file

from surgeon.checkpoint.index import INDEX, Checkpoint
from surgeon.errors import SurgeonError
from surgeon.expand.plan import ExpandSettings, plan_expand
from surgeon.ops.execute import execute
from surgeon.vocab.hull import Combination
from surgeon.vocab.hull_check import ulp
from surgeon.vocab.hull_file import HULL_FILE, encode_hull, read_hull
from surgeon.vocab.plan import plan_extend_vocab
from surgeon.vocab.settings import ExtendVocabSettings

TEXT = "Haemoglobin carries oxygen; haemophilia is a disorder of clotting. The haematologist measured haemoglobin. "
EMBEDDING, HEAD = "model.embed_tokens.weight", "lm_head.weight"


def extend(model: Path, out: Path, **options: Any) -> Path:
    if "corpus" not in options:
        text = out.with_suffix(".txt")
        text.write_text(TEXT * 4, encoding="utf-8")
        options["corpus"] = [str(text)]
    settings = ExtendVocabSettings(model=str(model), out=out, **{"add": 20} | options)
    execute(plan_extend_vocab(settings), out, threads=1)
    return out


def load(path: Path) -> dict[str, np.ndarray]:
    with safe_open(path, framework="np") as held:
        return {name: held.get_tensor(name) for name in held.keys()}  # noqa: SIM118


def by_hand(file: dict[str, np.ndarray], role: str, old_VD: np.ndarray) -> np.ndarray:
    """The rows from the file alone, as dense matrix products in float64."""
    indices, weights = file[f"{role}.indices"], file[f"{role}.weights"].astype(np.float64)
    dense_NV = np.zeros((len(indices), len(old_VD)))
    for row, (ids, shares) in enumerate(zip(indices, weights, strict=True)):
        for i, share in zip(ids, shares, strict=True):
            if i >= 0:
                dense_NV[row, i] += share
    if f"{role}.mean_weight" in file:
        ids = np.concatenate([np.arange(a, b) for a, b in file[f"{role}.mean_ids"]])
        dense_NV[:, ids] += file[f"{role}.mean_weight"].astype(np.float64)[:, None] / len(ids)
    return dense_NV @ old_VD.astype(np.float64)


@pytest.mark.material
def test_the_file_alone_gives_the_rows_of_both_matrices(material: Path, tmp_path: Path) -> None:
    base = material / "models" / "base"
    out = extend(
        base, tmp_path / "out", init="convex_hull", init_output="subword_mean", option_output={"mean_share": 0.1}
    )
    file, after = load(out / HULL_FILE), load_file(out / "model.safetensors")
    kinds = {name: (str(values.dtype), values.shape) for name, values in file.items()}
    pieces = file["output.indices"].shape[1]
    assert kinds == {
        "ids": ("int64", (20,)),
        "input.indices": ("int32", (20, 64)), "input.weights": ("float32", (20, 64)),
        "output.indices": ("int32", (20, pieces)), "output.weights": ("float32", (20, pieces)),
        "output.mean_weight": ("float32", (20,)), "output.mean_ids": ("int64", file["output.mean_ids"].shape),
    }  # fmt: skip
    assert file["ids"].tolist() == list(range(4096, 4116))
    assert (file["output.indices"] == -1).any() and (file["output.weights"][file["output.indices"] == -1] == 0).all()
    with safe_open(out / HULL_FILE, framework="np") as held:
        assert json.loads(held.metadata()["matrices"]) == {"input": EMBEDDING, "output": HEAD}
    lineage = Checkpoint.open(out).lineage
    assert lineage is not None and lineage.rows is not None and lineage.rows.hull_weights == HULL_FILE
    for role, name in (("input", EMBEDDING), ("output", HEAD)):
        stored = after[name][4096:].double().numpy()
        rows = by_hand(file, role, after[name][:4096].float().numpy())
        step = np.exp2(np.floor(np.log2(np.abs(stored))) - 7)  # of bfloat16, 8 bits
        over = np.abs(rows - stored) / step
        assert (over <= 0.5 + 1e-3).mean() > 0.999 and (np.abs(rows - stored) <= step / 2 + 1e-6).all()


@pytest.mark.parametrize("init", ["subword_mean", "convex_hull", "mean"])
def test_reading_gives_the_weights_rounded_once(stories: Path, tmp_path: Path, init: str) -> None:
    out = extend(stories, tmp_path / "out", init=init)
    table = load_file(next((out / "surgeon").glob("rows-*.safetensors")))
    given = Combination.from_tables(table, "input")
    found = read_hull(out / HULL_FILE)
    assert list(found.matrices) == [EMBEDDING] and found.ids.tolist() == list(range(512, 532))
    read = found.matrices[EMBEDDING]
    assert torch.equal(read.offsets, given.offsets) and torch.equal(read.indices, given.indices)
    assert torch.equal(read.weights, given.weights.float().double())
    assert (read.mean_ids is None) == (given.mean_ids is None)


def test_a_matrix_without_convex_rows_is_not_in_it(stories: Path, tmp_path: Path) -> None:
    out = extend(stories, tmp_path / "out", init="gaussian")
    assert not (out / HULL_FILE).exists() and not (out / INDEX).exists()
    lineage = Checkpoint.open(out).lineage
    assert lineage is not None and lineage.rows is not None and lineage.rows.hull_weights is None
    assert encode_hull({"a": torch.zeros(2, 3), "b": torch.zeros(2, 3)}, [5, 6]) is None
    convex = Combination.of([[(0, 1.0)], [(1, 1.0)]])
    raw = encode_hull({"a": torch.zeros(2, 3), "b": convex}, [5, 6])
    assert raw is not None
    (tmp_path / "x.safetensors").write_bytes(raw)
    assert set(load(tmp_path / "x.safetensors")) == {"ids", "output.indices", "output.weights"}


def test_every_reader_of_the_folder_sees_the_model_alone(stories: Path, tmp_path: Path) -> None:
    from mergekit.io.lazy_tensor_loader import ShardedTensorIndex
    from peft import LoraConfig, PeftModel, get_peft_model
    from transformers import AutoModelForCausalLM

    out = extend(stories, tmp_path / "out", init="convex_hull")
    names = set(load_file(out / "model.safetensors"))
    index = json.loads((out / INDEX).read_text())
    assert index["weight_map"] == dict.fromkeys(sorted(names), "model.safetensors")
    assert index["metadata"]["total_size"] == Checkpoint.open(out).num_bytes
    assert set(Checkpoint.open(out).tensors) == names
    assert set(ShardedTensorIndex.from_disk(str(out)).tensor_paths) == names
    model, info = AutoModelForCausalLM.from_pretrained(out, output_loading_info=True)
    assert not any(info[key] for key in ("missing_keys", "unexpected_keys", "mismatched_keys"))
    get_peft_model(model, LoraConfig(target_modules=["q_proj"])).save_pretrained(tmp_path / "lora")
    PeftModel.from_pretrained(AutoModelForCausalLM.from_pretrained(out), tmp_path / "lora")
    # what vLLM and SGLang do: every safetensors file of the folder that the index names
    named = {out / shard for shard in index["weight_map"].values()}
    assert {p for p in out.glob("*.safetensors") if p in named} == {out / "model.safetensors"}


def test_several_shards_and_a_saved_plan(stories: Path, tmp_path: Path) -> None:
    out = extend(stories, tmp_path / "out", init="convex_hull", shard_bytes=300_000)
    shards = {p.name for p in out.glob("model-*.safetensors")}
    index = json.loads((out / INDEX).read_text())
    assert len(shards) > 1 and set(index["weight_map"].values()) == shards
    assert HULL_FILE not in index["weight_map"].values()


def test_later_outputs_do_not_carry_it(stories: Path, tmp_path: Path) -> None:
    out = extend(stories, tmp_path / "out", init="convex_hull")
    deep, wider = tmp_path / "deep", tmp_path / "wider"
    execute(plan_expand(ExpandSettings(model=str(out), out=deep, add=1)), deep, threads=1)
    assert not (deep / HULL_FILE).exists() and not (deep / INDEX).exists()
    assert list((deep / "surgeon").glob("rows-*.safetensors"))
    extend(out, wider, init="gaussian", add=5)
    assert not (wider / HULL_FILE).exists()


def test_an_index_beside_one_shard_must_name_it(stories: Path, tmp_path: Path) -> None:
    out = extend(stories, tmp_path / "out", init="mean")
    index = json.loads((out / INDEX).read_text())
    first = next(iter(index["weight_map"]))
    cases = [
        ({**index["weight_map"], first: "other.safetensors"}, "which one holds the weights is not clear"),
        ({}, "which one holds the weights is not clear"),
        ({**index["weight_map"], "extra": "model.safetensors"}, "names 'extra', which is not in"),
        ({n: s for n, s in index["weight_map"].items() if n != first}, "which the index places elsewhere"),
    ]
    for weight_map, reason in cases:
        (out / INDEX).write_text(json.dumps({"weight_map": weight_map}))
        with pytest.raises(SurgeonError, match=reason):
            Checkpoint.open(out)


@pytest.mark.parametrize("damage", ["truncate", "no metadata", "weight without index"])
def test_a_damaged_file_is_refused(stories: Path, tmp_path: Path, damage: str) -> None:
    from safetensors.torch import save_file

    path = tmp_path / HULL_FILE
    raw = encode_hull({"a": Combination.of([[(0, 0.5), (1, 0.5)], [(1, 1.0)]])}, [5, 6])
    assert raw is not None
    path.write_bytes(raw)
    assert read_hull(path).matrices["a"].weights.tolist() == [0.5, 0.5, 1.0]
    tensors = load_file(path)
    match damage:
        case "truncate":
            path.write_bytes(raw[:-4])
        case "no metadata":
            save_file(tensors, path)
        case _:
            tensors["input.weights"][1, 1] = 0.25
            save_file(tensors, path, {"matrices": '{"input": "a"}'})
    with pytest.raises(SurgeonError, match="cannot be read"):
        read_hull(path)


def test_ulp_is_the_distance_to_the_next_number() -> None:
    values = np.array([1.0, -1.5, 2.0, 3.1e-5, -7e4, 0.0, 1e-40], dtype=np.float32)
    expected = np.spacing(np.abs(values)).astype(np.float64)
    assert ulp(torch.from_numpy(values)).numpy().tolist() == expected.tolist()
    halves = torch.tensor([1.0, -0.3, 65504.0, 6e-8, 0.0], dtype=torch.float16)
    assert ulp(halves).tolist() == [2.0**-10, 2.0**-12, 32, 2.0**-24, 2.0**-24]
    brain = torch.tensor([1.0, -0.3, 1000.0, 0.0], dtype=torch.bfloat16)
    following = (brain.abs().view(torch.int16) + 1).view(torch.bfloat16)
    assert ulp(brain).tolist() == (following.double() - brain.abs().double()).tolist()

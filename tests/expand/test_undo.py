"""expand-layers --undo: what was there before, byte for byte."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from run_cli import surgeon
from safetensors.torch import load_file
from test_identity import expanded, load_model
from test_kept_shards import files, sharded  # noqa: F401 - a fixture
from tiny import FAMILIES

from surgeon.checkpoint.index import INDEX, Checkpoint
from surgeon.checkpoint.writer import save_tensors
from surgeon.errors import SurgeonError, UsageError
from surgeon.expand.plan import ExpandSettings, plan_expand
from surgeon.merge.plan import MergeSettings, plan_merge
from surgeon.ops.execute import execute
from surgeon.ops.result import Result
from surgeon.verify import verify

Tiny = Callable[..., Path]


def undone(model: Path, out: Path, **options: Any) -> Result:
    return execute(plan_expand(ExpandSettings(model=str(model), out=out, undo=True, **options)), out, threads=1)


def same_files(model: Path, out: Path) -> None:
    """Every file of the model is there again, and nothing but the lineage is new."""
    assert {n: d for n, d in files(out).items() if n != "surgeon.json"} == files(model)


@pytest.mark.parametrize("family", FAMILIES)
def test_the_original_comes_back_byte_for_byte(tiny: Tiny, tmp_path: Path, family: str) -> None:
    model = tiny(family)
    deep = expanded(model, tmp_path / "deep", at=[0, 2, 2, 3])
    result = undone(deep, tmp_path / "out")
    assert result.verified["original"] is True
    same_files(model, tmp_path / "out")
    assert Checkpoint.open(tmp_path / "out").read_digest() == Checkpoint.open(model).read_digest()


@pytest.mark.parametrize("link", [False, True])
def test_shards_come_back_too(sharded: Path, tmp_path: Path, link: bool) -> None:  # noqa: F811
    deep = expanded(sharded, tmp_path / "deep", at=[1, 5], link=link)
    assert len(Checkpoint.open(deep).shards) > len(Checkpoint.open(sharded).shards)
    assert undone(deep, tmp_path / "out", link=link).verified["original"] is True
    same_files(sharded, tmp_path / "out")


@pytest.mark.parametrize("options", [{}, {"shard_bytes": 2_000_000}])
def test_the_index_of_the_deeper_model_counts_its_parameters(
    sharded: Path,  # noqa: F811
    tmp_path: Path,
    options: dict[str, Any],
) -> None:
    """As save_pretrained of transformers counts them, which wrote the input's index; other keys stay."""
    model = tmp_path / "model"
    shutil.copytree(sharded, model)
    index = json.loads((model / INDEX).read_text())
    assert index["metadata"]["total_parameters"] > 0
    index["metadata"] = {"by": "a person", **index["metadata"]}
    (model / INDEX).write_text(json.dumps(index, indent=2) + "\n")
    deep = expanded(model, tmp_path / "deep", at=[1, 5], **options)
    found = json.loads((deep / INDEX).read_text())["metadata"]
    assert list(found) == list(index["metadata"])
    assert found["total_parameters"] == load_model(deep, "float32").num_parameters()
    assert found["total_size"] == Checkpoint.open(deep).num_bytes and found["by"] == "a person"
    undone(deep, tmp_path / "out")
    assert json.loads((tmp_path / "out" / INDEX).read_text())["metadata"] == index["metadata"]


def test_trained_new_blocks_go_without_a_trace(stories: Path, tmp_path: Path) -> None:
    """The trained model is written by other code, with a header of its own length and its own order of tensors."""
    deep, trained, out = (tmp_path / name for name in ("deep", "trained", "out"))
    expanded(stories, deep, at=[1, 4])
    corpus = str(stories.parent / "general.valid.jsonl")
    words = ["cpt", str(deep), str(trained), "--data", corpus, "--tokens", "1k", "--train", "new-blocks", "--quiet"]
    assert surgeon(*words).code == 0
    assert undone(trained, out).verified["original"] is True
    for file in files(stories):
        assert (out / file).read_bytes() == (stories / file).read_bytes()
    assert verify(out, function=True)["holds"]


def test_what_is_no_model_from_before_has_a_card(tiny: Tiny, tmp_path: Path) -> None:
    """Old blocks that were trained too: what is left is a model of its own."""
    deep = expanded(tiny("llama"), tmp_path / "deep", at=[1, 3])
    change(deep, ("layers.0.",))
    assert undone(deep, tmp_path / "out").verified["original"] is False
    assert "2. **expand-layers** of step 1: 4 blocks are left" in (tmp_path / "out" / "README.md").read_text()


@pytest.mark.parametrize("kind", ["sharded", "deep"])
def test_files_come_back_from_weights_that_were_written_anew(
    stories: Path,
    sharded: Path,  # noqa: F811
    tmp_path: Path,
    kind: str,
) -> None:
    """As trainings and other tools write them: filled by size, in the order of names."""
    model = sharded if kind == "sharded" else expanded(stories, tmp_path / "model", at=[0])
    deep = expanded(model, tmp_path / "deep", at=[1, 5])
    held = {n: t for shard in Checkpoint.open(deep).shards for n, t in load_file(shard).items()}
    for path in [*deep.glob("*.safetensors"), *deep.glob(INDEX)]:
        path.unlink()
    save_tensors(deep, sorted(held.items()))
    assert undone(deep, tmp_path / "out").verified["original"] is True
    assert {n: d for n, d in files(tmp_path / "out").items() if n != "surgeon.json"} == {
        n: d for n, d in files(model).items() if n not in ("surgeon.json", "README.md")
    }


def test_twice_deeper_and_back(tiny: Tiny, tmp_path: Path) -> None:
    model = tiny("qwen3")
    deep = expanded(model, tmp_path / "deep", add=2)
    deeper = expanded(deep, tmp_path / "deeper", at=[0, 3], fill="copy")
    undone(deeper, tmp_path / "once")
    assert Checkpoint.open(tmp_path / "once").digest == Checkpoint.open(deep).digest
    undone(tmp_path / "once", tmp_path / "twice")
    same_files(model, tmp_path / "twice")
    with pytest.raises(SurgeonError, match="no expansion to undo"):
        undone(tmp_path / "twice", tmp_path / "thrice")


def change(folder: Path, of: tuple[str, ...]) -> None:
    """As training leaves it: float32 tensors whose name holds one of the words are others, where they were."""
    for name, stored in Checkpoint.open(folder).tensors.items():
        if any(word in name for word in of):
            held = np.memmap(stored.path, np.float32, "r+", stored.start, stored.shape)
            held += 0.01
            held.flush()


def test_training_of_the_new_blocks_alone_goes_with_them(tiny: Tiny, tmp_path: Path) -> None:
    model = tiny("llama")
    deep = expanded(model, tmp_path / "deep", at=[1, 3])  # new: 2 and 5
    change(deep, ("layers.2.", "layers.5."))
    assert undone(deep, tmp_path / "out").verified["original"] is True
    same_files(model, tmp_path / "out")
    report = verify(tmp_path / "out", function=True, parent=deep)
    assert report["holds"]


def test_training_of_old_blocks_stays_and_is_said(tiny: Tiny, tmp_path: Path) -> None:
    model = tiny("llama")
    deep = expanded(model, tmp_path / "deep", at=[1])
    change(deep, ("layers.4.mlp.up_proj",))
    assert undone(deep, tmp_path / "out").verified["original"] is False
    old, new = load_file(model / "model.safetensors"), load_file(tmp_path / "out" / "model.safetensors")
    differing = {name for name in old if not torch.equal(old[name], new[name])}
    assert differing == {"model.layers.3.mlp.up_proj.weight"}
    report = verify(tmp_path / "out", function=True, parent=deep)
    assert not report["holds"] and "before the expansion" in report["checks"][-1]["check"]


def test_a_vocabulary_that_grew_in_between_stays(stories: Path, tmp_path: Path) -> None:
    wide = extended(expanded(stories, tmp_path / "deep", add=1), tmp_path / "wide")
    assert undone(wide, tmp_path / "out").verified["original"] is False
    config = json.loads((tmp_path / "out" / "config.json").read_text())
    assert config["num_hidden_layers"] == 5 and config["vocab_size"] > 512
    tensors = load_file(tmp_path / "out" / "model.safetensors")
    original = load_file(stories / "model.safetensors")
    assert tensors.keys() == original.keys()
    assert torch.equal(tensors["model.embed_tokens.weight"][:512], original["model.embed_tokens.weight"])


def extended(model: Path, out: Path) -> Path:
    from surgeon.vocab.plan import plan_extend_vocab
    from surgeon.vocab.settings import ExtendVocabSettings

    (out.parent / "tokens.txt").write_text("hippopotamus\n")
    execute(plan_extend_vocab(ExtendVocabSettings(model=str(model), out=out, tokens=out.parent / "tokens.txt")), out)
    return out


def promised(out: Path, **options: Any) -> dict[str, tuple[bool, str]]:
    """The checks of the promise, without those of the bytes."""
    found = verify(out, function=True, **options)["checks"]
    return {c["check"]: (c["holds"], c["detail"]) for c in found if not c["check"].startswith("bytes of")}


DEEPER = "every tensor is the deeper model's"
CONFIG = "config.json is the deeper model's with its new blocks taken out"
BEFORE = "its tensors are those from before the expansion"


def test_the_promise_is_kept_though_tokens_came_in_between(stories: Path, tmp_path: Path) -> None:
    model = tmp_path / "model"
    shutil.copytree(stories, model)
    wide = extended(expanded(model, tmp_path / "deep", add=1), tmp_path / "wide")
    undone(wide, tmp_path / "out")
    found = promised(tmp_path / "out")
    assert found.keys() == {DEEPER, CONFIG, BEFORE} and all(holds for holds, _ in found.values())
    assert "the first 512" in found[BEFORE][1]
    shutil.rmtree(model)  # what can still be said is said
    assert promised(tmp_path / "out").keys() == {DEEPER, CONFIG}
    wide.rename(tmp_path / "elsewhere")
    with pytest.raises(SurgeonError, match="is not where it was"):
        promised(tmp_path / "out")
    assert promised(tmp_path / "out", parent=tmp_path / "elsewhere").keys() == {DEEPER, CONFIG}


@pytest.mark.parametrize("row", [7, 511])
def test_a_row_or_a_tensor_that_changed_in_between_is_found(stories: Path, tmp_path: Path, row: int) -> None:
    """By something that left no lineage, in the deeper model that undo then took as it was."""
    wide = extended(expanded(stories, tmp_path / "deep", add=1), tmp_path / "wide")
    stored = Checkpoint.open(wide).tensors["model.embed_tokens.weight"]
    held = np.memmap(stored.path, np.float32, "r+", stored.start, stored.shape)
    held[row, 3] += 1
    held.flush()
    undone(wide, tmp_path / "out")
    found = promised(tmp_path / "out")
    assert found[DEEPER][0] and not found[BEFORE][0] and "first model.embed_tokens.weight" in found[BEFORE][1]


def test_what_undo_did_not_take_as_it_was_is_found(stories: Path, tmp_path: Path) -> None:
    wide = extended(expanded(stories, tmp_path / "deep", add=1), tmp_path / "wide")
    undone(wide, tmp_path / "out")
    change(tmp_path / "out", ("layers.2.mlp.up_proj",))
    config = json.loads((tmp_path / "out" / "config.json").read_text())
    (tmp_path / "out" / "config.json").write_text(json.dumps(config | {"rms_norm_eps": 0.1}))
    found = promised(tmp_path / "out")
    assert not found[DEEPER][0] and not found[CONFIG][0] and not found[BEFORE][0]


def test_a_training_of_old_tensors_in_between_is_no_broken_promise(stories: Path, tmp_path: Path) -> None:
    deep = expanded(stories, tmp_path / "deep", add=1)
    corpus = str(stories.parent / "general.valid.jsonl")
    words = ["cpt", str(deep), str(tmp_path / "trained"), "--data", corpus, "--tokens", "1k", "--quiet"]
    assert surgeon(*words).code == 0
    undone(tmp_path / "trained", tmp_path / "out")
    found = promised(tmp_path / "out")
    assert all(holds for holds, _ in found.values()) and "not promised, as cpt came in between" in found[BEFORE][1]


def test_a_training_of_what_was_added_keeps_the_promise(stories: Path, tmp_path: Path) -> None:
    wide = extended(expanded(stories, tmp_path / "deep", add=1), tmp_path / "wide")
    corpus = str(stories.parent / "general.valid.jsonl")
    words = ["cpt", str(wide), str(tmp_path / "trained"), "--data", corpus, "--tokens", "1k", "--quiet"]
    assert surgeon(*words, "--train", "new-blocks+new-rows").code == 0
    undone(tmp_path / "trained", tmp_path / "out")
    holds, detail = promised(tmp_path / "out")[BEFORE]
    assert holds and "the first 512" in detail and "not promised" not in detail


def test_an_undo_that_laid_its_files_out_otherwise_keeps_its_promise(stories: Path, tmp_path: Path) -> None:
    """An expansion of an earlier version did not record how the files lay."""
    model = tmp_path / "model"
    shutil.copytree(stories, model)
    deep = expanded(model, tmp_path / "deep", at=[1])
    record = json.loads((deep / "surgeon.json").read_text())
    del record["blocks"]["files"]
    (deep / "surgeon.json").write_text(json.dumps(record))
    undone(deep, tmp_path / "out", shard_bytes=500_000)
    found = promised(tmp_path / "out")
    assert all(holds for holds, _ in found.values()) and "laid out otherwise" in found[BEFORE][1]
    shutil.rmtree(model)
    assert promised(tmp_path / "out")[f"{BEFORE}, as the expansion wrote them"][0]


def test_an_undone_model_still_merges_onto_its_base(stories: Path, tmp_path: Path) -> None:
    deep = expanded(stories, tmp_path / "deep", add=2)
    change(deep, ("layers.0.",))
    undone(deep, tmp_path / "out")
    plan = plan_merge(MergeSettings(base=str(stories), out=tmp_path / "merged", add=[f"{tmp_path / 'out'}=1.0"]))
    execute(plan, tmp_path / "merged")
    merged, held = (load_file(tmp_path / n / "model.safetensors") for n in ("merged", "out"))
    assert all(torch.equal(merged[name], held[name]) for name in held)


def test_choices_that_add_and_models_that_were_not_deepened_are_refused(stories: Path, tmp_path: Path) -> None:
    with pytest.raises(SurgeonError, match="no expansion to undo"):
        undone(stories, tmp_path / "out")
    deep = expanded(stories, tmp_path / "deep", add=1)
    for options in ({"add": 1}, {"at": [0]}, {"fill": "zero"}, {"select": "top"}, {"layout": "block"}):
        with pytest.raises(UsageError, match="is for adding some"):
            undone(deep, tmp_path / "out", **options)
    record = json.loads((deep / "surgeon.json").read_text())
    del record["blocks"]["before"]
    (deep / "surgeon.json").write_text(json.dumps(record))
    with pytest.raises(SurgeonError, match="older version"):
        undone(deep, tmp_path / "out")

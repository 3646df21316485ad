"""Checkpoints are read as the safetensors library reads them, and damaged ones are refused."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors import safe_open
from safetensors.torch import save_file

from surgeon.checkpoint.header import encode_header, read_header
from surgeon.checkpoint.index import INDEX, SINGLE, Checkpoint
from surgeon.checkpoint.reader import read
from surgeon.errors import SurgeonError


@pytest.fixture
def copy(stories: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(stories, tmp_path / "model"))


def sharded(folder: Path) -> Path:
    """The same model in two shards with an index, as the hub has it."""
    with safe_open(folder / SINGLE, framework="pt") as held:
        tensors = {name: held.get_tensor(name) for name in held.keys()}  # noqa: SIM118 - not a dict
    names = sorted(tensors)
    shards = {f"model-0000{i + 1}-of-00002.safetensors": names[i::2] for i in range(2)}
    for shard, held_names in shards.items():
        save_file({n: tensors[n] for n in held_names}, folder / shard, metadata={"format": "pt"})
    weight_map = {n: shard for shard, held_names in shards.items() for n in held_names}
    (folder / INDEX).write_text(json.dumps({"metadata": {}, "weight_map": weight_map}))
    (folder / SINGLE).unlink()
    return folder


def test_every_tensor_is_what_safetensors_reads(stories: Path) -> None:
    checkpoint = Checkpoint.open(stories)
    with safe_open(stories / SINGLE, framework="pt") as held:
        assert sorted(held.keys()) == list(checkpoint.tensors)
        for name, stored in checkpoint.tensors.items():
            expected = held.get_tensor(name)
            assert torch.equal(read(stored), expected)
            if stored.shape[0] > 3:
                assert torch.equal(read(stored, (1, 3)), expected[1:3])


def test_shards_hold_the_same_tensors_as_one_file(copy: Path) -> None:
    whole = {n: read(t) for n, t in Checkpoint.open(copy).tensors.items()}
    parts = Checkpoint.open(sharded(copy))
    assert list(parts.tensors) == list(whole)
    assert all(torch.equal(read(t), whole[n]) for n, t in parts.tensors.items())


def test_digest_follows_the_bytes_and_not_the_place(stories: Path, copy: Path) -> None:
    assert Checkpoint.open(copy).digest == Checkpoint.open(stories).digest
    with (copy / SINGLE).open("r+b") as file:
        file.seek(-1, 2)
        last = file.read(1)
        file.seek(-1, 2)
        file.write(bytes([last[0] ^ 1]))
    assert Checkpoint.open(copy).digest != Checkpoint.open(stories).digest


def refusal(folder: Path) -> SurgeonError:
    with pytest.raises(SurgeonError) as caught:
        Checkpoint.open(folder)
    assert caught.value.problem and caught.value.where and caught.value.hint
    return caught.value


def test_truncated_shard(copy: Path) -> None:
    raw = (copy / SINGLE).read_bytes()
    for keep in (0, 4, 100, len(raw) // 2, len(raw) - 1):
        (copy / SINGLE).write_bytes(raw[:keep])
        assert "damaged" in refusal(copy).problem
    (copy / SINGLE).write_bytes(raw + b"x")
    assert "bytes behind" in refusal(copy).problem


def test_missing_shard(copy: Path) -> None:
    sharded(copy)
    (copy / "model-00002-of-00002.safetensors").unlink()
    assert "missing" in refusal(copy).problem


def test_index_that_names_an_absent_tensor(copy: Path) -> None:
    sharded(copy)
    index = json.loads((copy / INDEX).read_text())
    index["weight_map"]["model.ghost.weight"] = "model-00001-of-00002.safetensors"
    (copy / INDEX).write_text(json.dumps(index))
    assert "model.ghost.weight" in refusal(copy).problem


def test_shard_with_a_tensor_the_index_does_not_name(copy: Path) -> None:
    sharded(copy)
    index = json.loads((copy / INDEX).read_text())
    del index["weight_map"]["model.norm.weight"]
    (copy / INDEX).write_text(json.dumps(index))
    assert "model.norm.weight" in refusal(copy).problem


def test_index_that_leaves_the_folder(copy: Path) -> None:
    shutil.copy(copy / SINGLE, copy.parent / "outside.safetensors")
    names = list(Checkpoint.open(copy).tensors)
    (copy / INDEX).write_text(json.dumps({"weight_map": dict.fromkeys(names, "../outside.safetensors")}))
    (copy / SINGLE).unlink()
    assert "no file of this folder" in refusal(copy).problem


def test_both_single_file_and_index(copy: Path) -> None:
    raw = (copy / SINGLE).read_bytes()
    sharded(copy)
    (copy / SINGLE).write_bytes(raw)
    assert "not clear" in refusal(copy).problem


@pytest.mark.parametrize("text", ["{", "[]", "", '{"a": \x00}', "\xff"])
def test_corrupt_config(copy: Path, text: str) -> None:
    (copy / "config.json").write_bytes(text.encode("latin-1"))
    assert "config.json" in refusal(copy).problem


def test_pickles_are_refused_with_the_cure(copy: Path) -> None:
    (copy / SINGLE).rename(copy / "pytorch_model.bin")
    error = refusal(copy)
    assert "pickle" in error.problem and "save_pretrained" in error.hint


def test_no_folder_no_weights(tmp_path: Path, copy: Path) -> None:
    assert "no such folder" in refusal(tmp_path / "absent").problem
    (copy / SINGLE).unlink()
    assert SINGLE in refusal(copy).problem


@settings(max_examples=60, deadline=None)
@given(st.binary(max_size=200), st.integers(0, 300))
def test_a_header_of_noise_is_refused_and_never_crashes(
    tmp_path_factory: pytest.TempPathFactory, raw: bytes, n: int
) -> None:
    path = tmp_path_factory.mktemp("noise") / "x.safetensors"
    path.write_bytes(n.to_bytes(8, "little") + raw)
    try:
        tensors, _ = read_header(path)
    except SurgeonError:
        return
    assert not tensors  # only an empty object is a header without data


def test_a_header_we_encode_is_one_that_safetensors_reads(tmp_path: Path) -> None:
    path = tmp_path / "x.safetensors"
    entries = [("b", "F32", (2, 3)), ("a", "BF16", (5,)), ("scalar", "I64", ())]
    entries.sort(key=lambda e: -{"I64": 8, "F32": 4, "BF16": 2}[e[1]])
    header = encode_header(entries, {"format": "pt"})
    path.write_bytes(header + bytes(8 + 24 + 10))
    with safe_open(path, framework="pt") as held:
        assert held.get_tensor("b").shape == (2, 3)
        assert held.get_tensor("a").dtype == torch.bfloat16
        assert held.metadata() == {"format": "pt"}
    assert {n: (t.dtype, t.shape) for n, t in read_header(path)[0].items()} == {n: (d, s) for n, d, s in entries}


def test_a_pointer_in_the_place_of_a_file_is_named(copy: Path) -> None:
    """A clone without Git LFS; to download it again the same way would not mend it."""
    from surgeon.vocab.tokenizer_json import TokenizerFile

    pointer = "version https://git-lfs.github.com/spec/v1\noid sha256:4d7a\nsize 1044992\n"
    (copy / "tokenizer.json").write_text(pointer)
    with pytest.raises(SurgeonError, match=r"tokenizer\.json is a pointer of Git LFS"):
        TokenizerFile.open(copy)
    for name in (SINGLE, "config.json"):
        (copy / name).write_text(pointer)
        told = refusal(copy)
        assert f"{name} is a pointer of Git LFS" in told.problem and "git lfs pull" in told.hint

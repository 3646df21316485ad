"""Old tensors stay in their shards, unchanged shards are kept or linked, new blocks get a shard of their own."""

from __future__ import annotations

import errno
import hashlib
import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors import safe_open

from surgeon.checkpoint.header import PAGE, read_header
from surgeon.checkpoint.index import INDEX, Checkpoint
from surgeon.errors import SurgeonError, UsageError
from surgeon.expand.plan import ExpandSettings, plan_expand
from surgeon.ops.execute import execute
from surgeon.ops.plan import dump_plan, from_json
from surgeon.verify import verify

Tiny = Callable[..., Path]


@pytest.fixture(scope="module")
def sharded(tiny: Tiny, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A Llama of 6 blocks in shards as save_pretrained writes them, matrices of the blocks larger than a page."""
    from transformers import AutoModelForCausalLM

    model = AutoModelForCausalLM.from_pretrained(tiny("llama", num_hidden_layers=6, intermediate_size=2048))
    folder = tmp_path_factory.mktemp("sharded") / "model"
    model.save_pretrained(folder, max_shard_size="1500KB")
    assert len(list(folder.glob("*.safetensors"))) >= 4
    return folder


def expanded(model: Path, out: Path, **options: Any) -> Path:
    execute(plan_expand(ExpandSettings(model=str(model), out=out, **options)), out, threads=2)
    return out


def order(path: Path) -> list[str]:
    return [t.name for t in sorted(read_header(path)[0].values(), key=lambda t: t.start)]


def files(folder: Path) -> dict[str, str]:
    return {p.name: hashlib.sha256(p.read_bytes()).hexdigest() for p in sorted(folder.iterdir())}


def test_old_tensors_stay_where_they_were(sharded: Path, tmp_path: Path) -> None:
    out = expanded(sharded, tmp_path / "out", at=[2, 4])
    old, new = Checkpoint.open(sharded), Checkpoint.open(out)
    assert len(new.shards) == len(old.shards) + 1
    assert new.lineage is not None and new.lineage.blocks is not None
    place = {s: b for b, s in reversed(list(enumerate(new.lineage.blocks.source)))}
    for before, after in zip(old.shards, new.shards, strict=False):
        renamed = [
            ".".join([*n.split(".")[:2], str(place[int(n.split(".")[2])]), *n.split(".")[3:]])
            if ".layers." in n
            else n
            for n in order(before)
        ]
        assert order(after) == renamed
        first = [min(t.start for t in read_header(path)[0].values()) for path in (before, after)]
        assert first[0] % PAGE == first[1] % PAGE and first[1] % 8 == 0
        assert before.read_bytes()[first[0] :] == after.read_bytes()[first[1] :]  # and the data as one run
    assert {n.split(".")[2] for n in order(new.shards[-1])} == {"3", "6"}
    assert set(json.loads((out / INDEX).read_text())["weight_map"]) == set(new.tensors)


def test_a_linked_and_a_copied_output_have_the_same_bytes(sharded: Path, tmp_path: Path) -> None:
    before = files(sharded)
    copied = expanded(sharded, tmp_path / "copied", at=[4, 5])
    linked = expanded(sharded, tmp_path / "linked", at=[4, 5], link=True)
    assert {k: v for k, v in files(copied).items() if k != "surgeon.json"} == {
        k: v for k, v in files(linked).items() if k != "surgeon.json"
    }
    assert files(sharded) == before
    inodes = {p.stat().st_ino: p.name for p in sharded.glob("*.safetensors")}
    second = [p for p in sorted(linked.glob("*.safetensors")) if p.stat().st_ino in inodes]
    kept = [
        p
        for p in sorted(sharded.glob("*.safetensors"))
        if not any(f".layers.{b}." in n for n in order(p) for b in (5,))
    ]
    assert [inodes[p.stat().st_ino] for p in second] == [p.name for p in kept] and len(second) >= 2
    assert not any(p.stat().st_ino in inodes for p in copied.iterdir())
    plan = plan_expand(ExpandSettings(model=str(sharded), out=tmp_path / "third", at=[4, 5], link=True))
    result = execute(plan, tmp_path / "third")
    assert result.verified["linked"] == [p.name for p in second]
    assert result.bytes_written == plan.nbytes - sum(t.nbytes for p in second for t in read_header(p)[0].values())
    for out in (copied, linked):
        assert verify(out)["holds"]
        for shard in out.glob("*.safetensors"):
            with safe_open(shard, framework="pt") as held:
                assert len(held.keys())


def test_a_linked_model_computes_the_same(sharded: Path, tmp_path: Path) -> None:
    from transformers import AutoModelForCausalLM

    out = expanded(sharded, tmp_path / "out", add=2, link=True)
    ids = torch.arange(40).reshape(2, 20)
    with torch.inference_mode():
        before, after = (AutoModelForCausalLM.from_pretrained(m)(ids).logits for m in (sharded, out))
    assert torch.equal(before, after)


def test_a_single_file_that_is_linked(stories: Path, tmp_path: Path) -> None:
    """Behind the last block nothing is renamed; before it the file is written anew, with the new block beside it."""
    model = tmp_path / "model"
    model.mkdir()
    for file in stories.iterdir():
        if file.is_file():
            (model / file.name).write_bytes(file.read_bytes())
    end = expanded(model, tmp_path / "end", at=[4], link=True)
    middle = expanded(model, tmp_path / "middle", at=[1], link=True)
    old = (model / "model.safetensors").stat().st_ino
    assert (end / "model-00001-of-00002.safetensors").stat().st_ino == old
    assert (middle / "model-00001-of-00002.safetensors").stat().st_ino != old
    assert verify(end)["holds"] and verify(middle)["holds"]
    one = expanded(model, tmp_path / "one", at=[4])
    assert [p.name for p in one.glob("*.safetensors")] == ["model.safetensors"]
    assert Checkpoint.open(one).tensors.keys() == Checkpoint.open(end).tensors.keys()


def test_zeros_take_no_space(tiny: Tiny, tmp_path: Path) -> None:
    model = tiny("llama", hidden_size=256, intermediate_size=1024)
    out = expanded(model, tmp_path / "out", at=[1], shard_bytes=2 << 20)
    shards = Checkpoint.open(out).shards
    held = sum(t.nbytes for s in shards for t in read_header(s)[0].values())
    zeros = sum(
        t.nbytes for t in Checkpoint.open(out).tensors.values() if t.name in Checkpoint.open(out).lineage.initial
    )  # type: ignore[union-attr]
    taken = sum(s.stat().st_blocks * 512 for s in shards)
    again = expanded(out, tmp_path / "again", at=[0])  # what was a hole is one after it is copied
    more = sum(s.stat().st_blocks * 512 for s in Checkpoint.open(again).shards)
    assert zeros > 1_000_000 and taken < held - zeros + 100_000
    assert more < sum(t.nbytes for t in Checkpoint.open(again).tensors.values()) - 2 * zeros + 100_000


def test_another_file_system_is_refused_and_leaves_nothing(
    sharded: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def across(*_: object) -> None:
        raise OSError(errno.EXDEV, "Invalid cross-device link")

    monkeypatch.setattr(os, "link", across)
    with pytest.raises(SurgeonError, match="cannot be linked") as caught:
        expanded(sharded, tmp_path / "out", at=[5], link=True)
    assert "--link" in caught.value.hint and list(tmp_path.iterdir()) == []


def test_shards_of_a_size_are_filled_anew(sharded: Path, tmp_path: Path) -> None:
    assert plan_expand(ExpandSettings(model=str(sharded), out=tmp_path / "a", add=1, shard_bytes=10**6)).shards == ()
    with pytest.raises(UsageError, match="--link"):
        plan_expand(ExpandSettings(model=str(sharded), out=tmp_path / "a", add=1, shard_bytes=10**6, link=True))


def test_a_saved_plan_keeps_the_shards(sharded: Path, tmp_path: Path) -> None:
    plan = plan_expand(ExpandSettings(model=str(sharded), out=tmp_path / "a", at=[5], link=True))
    again = from_json(json.loads(dump_plan(plan)))
    assert again == plan and again.link and len(again.shards) == len(Checkpoint.open(sharded).shards) + 1
    value = json.loads(dump_plan(plan))
    value["shards"][0].pop()
    with pytest.raises(SurgeonError, match="shards of the plan"):
        execute(from_json(value), tmp_path / "out")


def test_a_changed_byte_of_a_shared_file_is_found_in_both(sharded: Path, tmp_path: Path) -> None:
    first = expanded(sharded, tmp_path / "first", at=[1])
    second = expanded(first, tmp_path / "second", at=[5], link=True)
    shard = second / "model-00001-of-00006.safetensors"
    assert shard.stat().st_nlink == 2
    with shard.open("r+b") as file:
        file.seek(-1, 2)
        last = file.read(1)
        file.seek(-1, 2)
        file.write(bytes([last[0] ^ 1]))
    for out in (first, second):
        failed = [c["check"] for c in verify(out)["checks"] if not c["holds"]]
        assert [name[:20] for name in failed] == ["bytes of model-00001"]

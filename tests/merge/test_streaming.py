"""One plan, one set of bytes: for any threads, shards, memory and path of the arithmetic, and after an interrupt."""

from __future__ import annotations

import json
import math
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
import tiny
import torch
from merge_models import expanded, extended, tensors, trained

from surgeon.checkpoint import tree_digest
from surgeon.checkpoint.commit import PROGRESS
from surgeon.checkpoint.index import Checkpoint
from surgeon.checkpoint.sidecars import TOKENIZER_FILES
from surgeon.errors import SurgeonError, UsageError
from surgeon.merge.plan import MergeSettings, plan_merge
from surgeon.ops import done, jobs, resume, sum_jobs, sum_piece, sum_task
from surgeon.ops.check import working_bytes
from surgeon.ops.execute import execute
from surgeon.ops.plan import Plan
from surgeon.verify import verify


@pytest.fixture
def small_pieces(monkeypatch: pytest.MonkeyPatch) -> None:
    """Many pieces and blocks a tensor, as real ones have."""
    for module in (tree_digest, done, sum_jobs, sum_task, jobs, resume):
        monkeypatch.setattr(module, "LEAF", 1 << 10)
    monkeypatch.setattr(sum_piece, "BLOCK", 96)
    monkeypatch.setattr(sum_piece, "SMALL", 1000)  # all of it is measured


@pytest.fixture
def family(tmp_path: Path, small_pieces: None) -> dict[str, Path]:
    base = tiny.build("llama", tmp_path / "base", dtype="bfloat16")
    deep = expanded(extended(base, tmp_path / "wide", 5, 0), tmp_path / "deep", [1])
    return {
        "base": base,
        "instruct": trained(base, tmp_path / "instruct", 1, lineage=False),
        "domain": trained(deep, tmp_path / "domain", 2),
    }


def plan(family: dict[str, Path], out: Path, **settings: Any) -> Plan:
    add = [f"{family['instruct']}=0.7", f"{family['domain']}=0.4"]
    return plan_merge(MergeSettings(base=str(family["base"]), out=out, add=add, **settings))


def shards(folder: Path) -> dict[str, bytes]:
    return {p.name: p.read_bytes() for p in sorted(folder.glob("*.safetensors"))}


@pytest.mark.parametrize("method", ["task_arithmetic", "ties", "dare_linear", "della", "residual"])
def test_the_bytes_do_not_depend_on_threads_shards_or_memory(
    family: dict[str, Path], tmp_path: Path, method: str
) -> None:
    settings: dict[str, Any] = {"method": method}
    if method == "residual":
        settings["onto"] = str(family["domain"])

    def made(out: Path, **more: Any) -> Plan:
        if method == "residual":
            words = [f"{family['instruct']}=0.7"]
            return plan_merge(MergeSettings(base=str(family["base"]), out=out, add=words, **settings, **more))
        return plan(family, out, **settings, **more)

    first = made(tmp_path / "first")
    result = execute(first, tmp_path / "first", threads=1).to_json()
    for name, how in {
        "two": {"threads": 2},
        "four": {"threads": 4},
        "little": {"memory": 3 << 20, "threads": 4},
    }.items():
        again = execute(made(tmp_path / name), tmp_path / name, **how).to_json()
        assert shards(tmp_path / name) == shards(tmp_path / "first")
        assert (tmp_path / name / "surgeon.json").read_bytes() == (tmp_path / "first" / "surgeon.json").read_bytes()
        assert again["rounding"] == result["rounding"] and again["vectors"] == result["vectors"]
    execute(made(tmp_path / "sharded", shard_bytes=20_000), tmp_path / "sharded")
    from safetensors import safe_open

    found = {}
    for shard in (tmp_path / "sharded").glob("*.safetensors"):
        with safe_open(shard, "pt") as held:
            found |= {n: held.get_tensor(n) for n in held.keys()}  # noqa: SIM118 - not a mapping
    assert len(list((tmp_path / "sharded").glob("*.safetensors"))) > 3
    assert all(torch.equal(t, found[n]) for n, t in tensors(tmp_path / "first").items())
    assert verify(tmp_path / "first")["holds"]


@pytest.mark.parametrize("dtype", ["bfloat16", "float16", "float32"])
def test_with_and_without_torch_the_bits_are_the_same(
    family: dict[str, Path], tmp_path: Path, dtype: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    fast = execute(plan(family, tmp_path / "fast", dtype=dtype), tmp_path / "fast").to_json()
    monkeypatch.setattr(jobs, "weighted_sum", lambda tensor, inputs: None)
    slow = execute(plan(family, tmp_path / "slow", dtype=dtype), tmp_path / "slow").to_json()
    assert shards(tmp_path / "fast") == shards(tmp_path / "slow")
    assert (tmp_path / "fast" / "surgeon.json").read_bytes() == (tmp_path / "slow" / "surgeon.json").read_bytes()
    # rows that need torch are measured there only
    one, other = (r["vectors"]["blocks"][1]["pairs"][0]["cosine"] for r in (fast, slow))
    assert one == pytest.approx(other, abs=1e-6)


def test_a_merge_of_stored_tensors_needs_no_torch(stories: Path, tmp_path: Path) -> None:
    tuned = [trained(stories, tmp_path / f"m{n}", n) for n in (1, 2)]
    for model in (stories, *tuned):
        if model != stories:
            for name in TOKENIZER_FILES:
                (model / name).unlink(missing_ok=True)
    code = f"""
import sys
from surgeon.cli.app import main
try:
    main(["merge-task-vectors", {str(stories)!r}, {str(tmp_path / "out")!r}, "--add", "{tuned[0]}=0.5", "--add",
          "{tuned[1]}=0.5", "--special-tokens", "merged", "--quiet"])
except SystemExit as exit:
    assert not exit.code, exit.code
assert "torch" not in sys.modules
"""
    subprocess.run([sys.executable, "-c", code], check=True)
    assert Checkpoint.open(tmp_path / "out").lineage is not None


def test_the_buffers_of_all_threads_fit_into_the_memory(
    family: dict[str, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    needs: list[int] = []
    monkeypatch.setattr(sum_jobs, "writer_bytes", lambda program: needs.append(program.nbytes) or 1_000_000)
    made: list[sum_jobs.SumWriter] = []

    class Counted(sum_jobs.SumWriter):
        def __init__(self) -> None:
            made.append(self)
            super().__init__()

    monkeypatch.setattr(sum_jobs, "SumWriter", Counted)
    execute(plan(family, tmp_path / "out"), tmp_path / "out", threads=4, memory=2_900_000)
    assert needs and 1 <= len(made) <= 2
    monkeypatch.undo()
    with pytest.raises(SurgeonError, match="bytes of memory"):
        execute(plan(family, tmp_path / "no"), tmp_path / "no", memory=5)
    assert not (tmp_path / "no").exists()


def test_memory_that_does_not_suffice_is_said(family: dict[str, Path], tmp_path: Path) -> None:
    with pytest.raises(SurgeonError, match="bytes of memory") as found:
        execute(plan(family, tmp_path / "out", method="ties"), tmp_path / "out", memory=1000)
    assert "--memory" in found.value.where
    execute(plan(family, tmp_path / "in-base", onto=str(family["domain"])), tmp_path / "in-base", memory=3 << 20)


# --- interrupted ----------------------------------------------------------------------------------------------------


class Stopped(KeyboardInterrupt):
    pass


@pytest.mark.parametrize("method", ["task_arithmetic", "ties"])
def test_an_interrupted_merge_goes_on_and_gives_the_same_bytes(
    family: dict[str, Path], tmp_path: Path, method: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = execute(plan(family, tmp_path / "whole", method=method), tmp_path / "whole").to_json()
    out = tmp_path / "out"
    count = 0
    add = resume.Progressed.add

    def some(self: resume.Progressed, part: done.Done) -> None:
        nonlocal count
        count += 1
        if count > 20:
            raise Stopped
        add(self, part)

    with monkeypatch.context() as patch:
        patch.setattr(resume.Progressed, "add", some)
        with pytest.raises(KeyboardInterrupt):
            execute(plan(family, out, method=method), out, threads=1)
    partial = tmp_path / ".out.partial"
    assert not out.exists() and (partial / PROGRESS).is_file()
    written: list[str] = []
    write = sum_jobs.SumJobs.run

    def seen(self: sum_jobs.SumJobs, tensor: Any, *rest: Any) -> Any:
        written.append(tensor.name)
        return write(self, tensor, *rest)

    with monkeypatch.context() as patch:
        patch.setattr(sum_jobs.SumJobs, "run", seen)
        result = execute(plan(family, out, method=method), out).to_json()
    assert shards(out) == shards(tmp_path / "whole")
    assert (out / "surgeon.json").read_bytes() == (tmp_path / "whole" / "surgeon.json").read_bytes()
    assert result["rounding"] == whole["rounding"] and result["vectors"] == whole["vectors"]
    assert sorted(p.name for p in out.rglob("*")) == sorted(p.name for p in (tmp_path / "whole").rglob("*"))
    if method == "task_arithmetic":
        total = execute(plan(family, tmp_path / "x"), tmp_path / "x")
        assert len(written) > 0 and total is not None
    assert not partial.exists()


def test_what_was_damaged_meanwhile_is_computed_again(
    family: dict[str, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole, out = tmp_path / "whole", tmp_path / "out"
    execute(plan(family, whole), whole)
    finish = resume.Progressed.clear

    def stop(self: resume.Progressed) -> None:
        raise Stopped

    with monkeypatch.context() as patch:
        patch.setattr(resume.Progressed, "clear", stop)
        with pytest.raises(KeyboardInterrupt):
            execute(plan(family, out), out)
    assert finish is resume.Progressed.clear
    partial = tmp_path / ".out.partial"
    shard = next(partial.glob("*.safetensors"))
    with shard.open("r+b") as file:
        size = shard.stat().st_size
        for at in (size // 3, size // 2, size - 5):
            file.seek(at)
            file.write(b"\xff\x00\xff")
    execute(plan(family, out), out)
    assert shards(out) == shards(whole)


def test_another_plan_takes_nothing_over(
    family: dict[str, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    out = tmp_path / "out"
    with monkeypatch.context() as patch:
        patch.setattr(resume.Progressed, "clear", lambda self: (_ for _ in ()).throw(Stopped()))
        with pytest.raises(KeyboardInterrupt):
            execute(plan(family, out), out)
    (tmp_path / ".out.partial" / "stray.safetensors").write_bytes(b"x")
    words = [f"{family['instruct']}=0.1"]
    other = plan_merge(MergeSettings(base=str(family["base"]), out=out, add=words))
    execute(other, out)
    execute(plan_merge(MergeSettings(base=str(family["base"]), out=tmp_path / "o2", add=words)), tmp_path / "o2")
    assert shards(out) == shards(tmp_path / "o2")


def test_a_killed_command_goes_on(tmp_path: Path) -> None:
    """A real process, killed at some moments; the last run finishes what is left."""
    config = {"hidden_size": 512, "intermediate_size": 2048, "num_hidden_layers": 6, "vocab_size": 8000}
    base = tiny.build("llama", tmp_path / "base", dtype="bfloat16", **config)
    tuned = [trained(base, tmp_path / f"m{n}", n, lineage=False, size=0.01) for n in (1, 2)]
    words = [
        "merge-task-vectors",
        str(base),
        "--add",
        f"{tuned[0]}=0.5",
        "--add",
        f"{tuned[1]}=0.5",
        "--json",
        "--quiet",
    ]

    def command(out: Path) -> list[str]:
        return [sys.executable, "-m", "surgeon", *words[:2], str(out), *words[2:]]

    whole = tmp_path / "whole"
    subprocess.run(command(whole), check=True, capture_output=True)
    out, partial = tmp_path / "out", tmp_path / ".out.partial"
    kept = 0
    for parts in (1, 8, 20):
        process = subprocess.Popen(command(out), stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        while process.poll() is None:
            record = partial / PROGRESS
            if record.is_file() and len(record.read_bytes().splitlines()) >= parts:
                break
            time.sleep(0.0005)
        process.send_signal(signal.SIGKILL)
        process.wait()
        if out.exists():
            shutil.rmtree(out)
        elif (partial / PROGRESS).is_file():
            kept += 1
    done_ = subprocess.run(command(out), check=True, capture_output=True, text=True)
    assert json.loads(done_.stdout)["verified"]["reopened"]
    assert kept and shards(out) == shards(whole) and not partial.exists()
    assert (out / "surgeon.json").read_bytes() == (whole / "surgeon.json").read_bytes()
    assert not os.path.lexists(partial)


def test_the_bridge_asks_for_the_memory_that_mergekit_takes(family: dict[str, Path], tmp_path: Path) -> None:
    made = plan(family, tmp_path / "out", method="mergekit:ties")
    inputs = {entry.role: Checkpoint.open(entry.path) for entry in made.inputs}
    found = next(t for t in made.tensors if t.name == "model.layers.0.mlp.up_proj.weight")
    leaves = sum(math.prod(found.shape) * 8 for _ in made.inputs)
    assert working_bytes(found, inputs) >= math.prod(found.shape) * 8 * 10 + leaves


def test_memory_is_read_strictly() -> None:
    from surgeon.cli.options import memory_bytes

    assert memory_bytes("512M") == 512_000_000 and memory_bytes("4G") == 4_000_000_000 and memory_bytes(None) is None
    with pytest.raises(UsageError, match="not a count"):
        memory_bytes("much")

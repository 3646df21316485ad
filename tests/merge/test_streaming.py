"""One plan, one set of bytes: for any threads, shards, memory and path of the arithmetic."""

from __future__ import annotations

import math
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from merge_family import cut_small, family_in, plan, shards
from merge_models import tensors, trained

from surgeon.checkpoint.index import Checkpoint
from surgeon.checkpoint.sidecars import TOKENIZER_FILES
from surgeon.errors import SurgeonError, UsageError
from surgeon.merge.plan import MergeSettings, plan_merge
from surgeon.ops import jobs, sum_jobs
from surgeon.ops.execute import execute
from surgeon.ops.plan import Plan
from surgeon.ops.working_bytes import working_bytes
from surgeon.verify import verify


@pytest.fixture
def family(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> dict[str, Path]:
    cut_small(monkeypatch)
    return family_in(tmp_path)


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
    assert found.value.hint == "give --memory 1M or more"  # it works by rows already
    with pytest.raises(SurgeonError, match="bytes of memory") as found:
        execute(plan(family, tmp_path / "out", method="mergekit:ties"), tmp_path / "out", memory=1000)
    assert "works by rows" in found.value.hint
    execute(plan(family, tmp_path / "in-base", onto=str(family["domain"])), tmp_path / "in-base", memory=3 << 20)


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

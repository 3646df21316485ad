"""A merge that was interrupted, killed or damaged goes on and gives the bytes of one that was not."""

from __future__ import annotations

import json
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
from merge_family import cut_small, family_in, plan, shards
from merge_models import trained

from surgeon.checkpoint.commit import PROGRESS
from surgeon.merge.plan import MergeSettings, plan_merge
from surgeon.ops import done, resume, sum_jobs
from surgeon.ops.execute import execute


@pytest.fixture
def family(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> dict[str, Path]:
    cut_small(monkeypatch)
    return family_in(tmp_path)


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

"""Changes in place for the tests: made, killed at a step, and what there is then."""

from __future__ import annotations

import signal
from pathlib import Path

import pytest
import torch
import warm
from safetensors.torch import load_file

from surgeon.checkpoint.index import Checkpoint
from surgeon.checkpoint.insert_range import can_insert
from surgeon.expand.plan import ExpandSettings
from surgeon.operations import perform


def insertable(folder: Path) -> Path:
    """The folder, where room can be inserted into its files."""
    if not can_insert(folder):
        pytest.skip("the file system of the temporary folder cannot insert ranges (ext4 and XFS can)")
    return folder


def in_place(folder: Path, **options: object) -> dict[str, object]:
    settings = ExpandSettings(model=str(folder), out=folder, in_place=True, **options)
    return perform("expand-layers", settings)


def tensors(folder: Path) -> dict[str, torch.Tensor]:
    return {n: t for shard in Checkpoint.open(folder).shards for n, t in load_file(shard).items()}


def same(a: Path, b: Path) -> bool:
    left, right = tensors(a), tensors(b)
    return left.keys() == right.keys() and all(torch.equal(left[n], right[n]) for n in left)


KILL = """
import os, signal, sys
from pathlib import Path
from surgeon.expand.plan import ExpandSettings, plan_expand
from surgeon.ops.in_place import execute_in_place, request_of
folder, last = Path(sys.argv[1]), int(sys.argv[2])
count = 0
def step(name):
    global count
    count += 1
    if count == last:
        print(name, flush=True)
        os.kill(os.getpid(), signal.SIGKILL)
settings = ExpandSettings(model=str(folder), out=folder, in_place=True, at=[0, 2])
execute_in_place(plan_expand(settings), request_of("expand-layers", settings), step=step)
"""


def killed(model: Path, last: int) -> str | None:
    """The name of the step at which a process that changes the model was killed, None where it has fewer."""
    done = warm.run(["-c", KILL, str(model), str(last)])
    if done.returncode == 0:
        return None
    assert done.returncode == -signal.SIGKILL, done.stderr
    return done.stdout.strip()


def tree(folder: Path) -> dict[str, bytes]:
    return {p.relative_to(folder).as_posix(): p.read_bytes() for p in sorted(folder.rglob("*")) if p.is_file()}


def library(folder: Path) -> dict[str, torch.Tensor] | None:
    """The model's tensors as transformers loads them without a look at its warnings; None where it refuses."""
    from transformers import AutoModelForCausalLM

    try:
        return dict(AutoModelForCausalLM.from_pretrained(folder).state_dict())
    except (OSError, ValueError):
        return None


def is_of(loaded: dict[str, torch.Tensor], folder: Path) -> bool:
    expected = library(folder)
    assert expected is not None
    return loaded.keys() == expected.keys() and all(torch.equal(loaded[n], expected[n]) for n in expected)

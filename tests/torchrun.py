"""A program of the tests in several processes, as torchrun starts them."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import warm


def torchrun(
    program: Path, *words: str, processes: int = 2, cwd: Path | None = None
) -> subprocess.CompletedProcess[str]:
    """One thread each; 15 minutes at the most."""
    launch = ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node", str(processes), str(program)]
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(sys.path), "OMP_NUM_THREADS": "1"}
    return subprocess.run(
        [sys.executable, *launch, *words],
        capture_output=True, text=True, check=False, cwd=cwd, env=environment, timeout=900,
    )  # fmt: skip


def in_several(
    program: Path, *words: str, processes: int = 2, cwd: Path | None = None
) -> subprocess.CompletedProcess[str]:
    """The same without the launcher: forked, and told of each other as it tells them (three interpreters less)."""
    return warm.run_several([str(program), *words], processes, cwd=cwd)

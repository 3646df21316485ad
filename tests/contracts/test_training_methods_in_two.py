"""Every method of training under two processes that share the model: what one process gives, or a refusal by name."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from training_methods import Case, Lab, cases

from surgeon.checkpoint.header import read_header
from surgeon.checkpoint.reader import read
from surgeon.errors import SurgeonError

pytestmark = pytest.mark.long
PROGRAM = Path(__file__).with_name("runs_of_two.py")
# five rows a step: the second process runs out of rows first
CHANGES = {"batch_tokens": 160, "tokens": 6 * 160, "lr": 1e-3}


@pytest.fixture(scope="module")
def lab(tmp_path_factory: pytest.TempPathFactory, stories: Path) -> Lab:
    """Without dropout: each process draws its own."""
    return Lab(tmp_path_factory.mktemp("two"), stories, dropout=0.0)


def changes(case: Case, lab: Lab) -> dict[str, object]:
    """Those of a run in one process; on an adapter where the method is for adapters alone."""
    try:
        lab.run(case, **CHANGES)
    except SurgeonError as refused:
        assert case.name in f"{refused} {refused.where} {refused.hint}"
        return CHANGES | lab.on_adapter(case.encoder)
    return CHANGES


@pytest.fixture(scope="module")
def found(lab: Lab) -> dict[str, str]:
    """What refused each run of two processes, by case; empty where nothing did."""
    runs = {str(c): lab.settings(c, lab.folder / f"two-{c}", **changes(c, lab)) for c in cases()}
    given, target = lab.folder / "runs.json", lab.folder / "found.json"
    given.write_text(json.dumps(runs))
    words = ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2", str(PROGRAM)]
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(sys.path), "OMP_NUM_THREADS": "1"}
    done = subprocess.run(
        [sys.executable, *words, str(given), str(target)],
        capture_output=True, text=True, check=False, env=environment, timeout=900,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr[-4000:]
    result: dict[str, str] = json.loads(target.read_text())
    return result


@pytest.mark.parametrize("case", cases(), ids=str)
def test_two_processes_are_one_or_refused_by_name(case: Case, lab: Lab, found: dict[str, str]) -> None:
    if found[str(case)]:
        assert case.name in found[str(case)], found[str(case)]
        return
    one, two = lab.run(case, **changes(case, lab)), lab.folder / f"two-{case}"
    a, b = (read_header(next(folder.glob("*model.safetensors")))[0] for folder in (one, two))
    assert a.keys() == b.keys()
    for name in a:
        first, second = read(a[name]).double(), read(b[name]).double()
        assert float((first - second).abs().max()) <= 1e-5 * max(1.0, float(first.abs().max())), name

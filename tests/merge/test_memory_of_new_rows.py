"""--memory where rows have to be computed: what they take is counted, beside the buffers of the sums, and no more."""

from __future__ import annotations

import re
import threading
from pathlib import Path

import pytest
import tiny
from merge_family import cut_small, shards
from merge_models import extended, trained

from surgeon.checkpoint.index import Checkpoint
from surgeon.errors import SurgeonError
from surgeon.merge.plan import MergeSettings, plan_merge
from surgeon.ops.execute import execute
from surgeon.ops.memory_gate import MemoryGate
from surgeon.ops.plan import Plan
from surgeon.ops.working_bytes import rows_bytes, working_bytes


def merge_of(root: Path, num_new: int) -> Plan:
    base = tiny.build("llama", root / "base", dtype="bfloat16")
    domain = trained(extended(base, root / "wide", num_new, 0), root / "domain", 2)
    return plan_merge(MergeSettings(base=str(base), out=root / "out", add=[f"{domain}=0.4"]))


def least(plan: Plan, out: Path) -> int:
    """The figure of the refusal."""
    with pytest.raises(SurgeonError, match="bytes of memory") as told:
        execute(plan, out, memory=1)
    found = re.search(r"about ([\d,]+) bytes", told.value.problem)
    assert found is not None
    figure = int(found[1].replace(",", ""))
    assert told.value.hint == f"give --memory {-(-figure // 10**6)}M or more"
    return figure


def test_the_figure_that_is_named_suffices_and_no_less_does(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    cut_small(monkeypatch)
    plan = merge_of(tmp_path, 40)
    execute(plan, tmp_path / "free", threads=4)
    figure = least(plan, tmp_path / "out")
    with pytest.raises(SurgeonError, match="bytes of memory"):
        execute(plan, tmp_path / "out", memory=figure - 1)
    execute(plan, tmp_path / "out", memory=figure, threads=4)
    assert shards(tmp_path / "out") == shards(tmp_path / "free")


def test_few_rows_are_not_counted_as_a_whole_chunk(tmp_path: Path) -> None:
    """Five rows were refused below 117 MB, as many as a million elements take."""
    plan = merge_of(tmp_path, 5)
    embedding = next(t for t in plan.tensors if "embed" in t.name)
    inputs = {i.role: Checkpoint.open(i.path) for i in plan.inputs}
    assert rows_bytes(embedding, inputs, 5) < working_bytes(embedding, inputs) / 2
    assert least(plan, tmp_path / "out") < 45_000_000


def test_rows_that_are_computed_all_at_once_are_counted_all(tmp_path: Path) -> None:
    """1,000 new rows were held in float64 twice, whatever was allowed."""
    plan = merge_of(tmp_path, 1000)
    embedding = next(t for t in plan.tensors if "embed" in t.name)
    inputs = {i.role: Checkpoint.open(i.path) for i in plan.inputs}
    assert working_bytes(embedding, inputs, 1) > 2 * 1000 * embedding.shape[1] * 8


def test_what_is_kept_leaves_room_for_what_is_computed() -> None:
    gate = MemoryGate(100)
    gate.reserve = 40
    with gate.changed:
        assert gate.keep(30) and gate.keep(30) and not gate.keep(1)
    done = threading.Event()

    def second() -> None:
        with gate.hold(40):
            done.set()

    with gate.hold(40):
        worker = threading.Thread(target=second)
        worker.start()
        assert not done.wait(0.1)  # 60 are kept, and 40 computed
    worker.join(10)
    assert done.is_set()
    with gate.hold(30), gate.changed:
        assert not gate.keep(11)

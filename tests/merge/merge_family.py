"""A base and two models of it whose tensors are cut into many pieces, and what is written of their merge."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import tiny
from merge_models import expanded, extended, trained

from surgeon.checkpoint import tree_digest
from surgeon.merge.plan import MergeSettings, plan_merge
from surgeon.ops import done, jobs, resume, sum_jobs, sum_piece, sum_task, working_bytes
from surgeon.ops.plan import Plan


def cut_small(monkeypatch: pytest.MonkeyPatch) -> None:
    """Many pieces and blocks a tensor, as real ones have."""
    for module in (tree_digest, done, sum_jobs, sum_task, jobs, resume, working_bytes):
        monkeypatch.setattr(module, "LEAF", 1 << 10)
    monkeypatch.setattr(sum_piece, "BLOCK", 96)
    monkeypatch.setattr(sum_piece, "SMALL", 1000)  # all of it is measured


def family_in(folder: Path) -> dict[str, Path]:
    base = tiny.build("llama", folder / "base", dtype="bfloat16")
    deep = expanded(extended(base, folder / "wide", 5, 0), folder / "deep", [1])
    return {
        "base": base,
        "instruct": trained(base, folder / "instruct", 1, lineage=False),
        "domain": trained(deep, folder / "domain", 2),
    }


def plan(family: dict[str, Path], out: Path, **settings: Any) -> Plan:
    add = [f"{family['instruct']}=0.7", f"{family['domain']}=0.4"]
    return plan_merge(MergeSettings(base=str(family["base"]), out=out, add=add, **settings))


def shards(folder: Path) -> dict[str, bytes]:
    return {p.name: p.read_bytes() for p in sorted(folder.glob("*.safetensors"))}

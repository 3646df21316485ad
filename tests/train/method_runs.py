"""Runs that every method has to pass: broken off and gone on with, beside plain AdamW, on new rows alone."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from surgeon.checkpoint.index import ADAPTER_WEIGHTS, Checkpoint
from surgeon.checkpoint.lineage import Lineage, NewRow, RowMap, dump_lineage
from surgeon.checkpoint.reader import read
from surgeon.train.run import run_cpt
from surgeon.train.settings import CptSettings

NEW_ROWS = [300, 511]


def cpt(model: Path | str, out: Path, corpus: Path, **changes: Any) -> Path:
    """Six steps (or what `changes` say) on a CPU."""
    options: dict[str, Any] = {"tokens": 384, "seq_len": 16, "batch_tokens": 64, "lr": 1e-2, "device": "cpu"}
    run_cpt(CptSettings(model=str(model), out=str(out), data=[str(corpus)], **(options | changes)))
    return out


def weights(folder: Path) -> dict[str, Tensor]:
    """Every tensor of a folder, as it is stored."""
    from surgeon.checkpoint.header import read_header

    if (folder / ADAPTER_WEIGHTS).is_file():
        return {name: read(t) for name, t in read_header(folder / ADAPTER_WEIGHTS)[0].items()}
    return {name: read(t) for name, t in Checkpoint.open(folder).tensors.items()}


def same(one: Path, other: Path) -> bool:
    """Whether all tensors are the same, bit for bit."""
    a, b = weights(one), weights(other)
    return a.keys() == b.keys() and all(torch.equal(a[n], b[n]) for n in a)


def check_resume(model: Path | str, folder: Path, corpus: Path, **changes: Any) -> Path:
    """A run that goes on from the state of its third step ends with the same bytes. Gives the folder of the run."""
    whole, again = folder / "whole", folder / "again"
    cpt(model, whole, corpus, keep_state=True, keep_states=9, save_every=3, **changes)
    shutil.copytree(folder / "whole.run", folder / "again.run")
    states = sorted((folder / "again.run" / "state").iterdir())
    assert [p.name for p in states] == ["step-00000003.pt", "step-00000006.pt"]
    states[1].unlink()
    cpt(model, again, corpus, resume=True, keep_state=True, keep_states=9, save_every=3, **changes)
    assert same(whole, again)
    first, second = (torch.load(folder / n / "state" / states[1].name) for n in ("whole.run", "again.run"))
    _assert_equal(first, second)
    return whole


def check_new_rows(model: Path, folder: Path, corpus: Path, **changes: Any) -> None:
    """With --train new-rows nothing but the new rows moves, and they do."""
    rows = [NewRow(id=i, token="x", pieces=[5]) for i in NEW_ROWS]
    lineage = Lineage(
        operation="test", kind="surgery", rows=RowMap(old=510, rows=512, new=rows, method="m", method_output="m")
    )
    (model / "surgeon.json").write_text(dump_lineage(lineage), encoding="utf-8")
    out = cpt(model, folder / "rows", corpus, train="new-rows", weight_decay=0.9, **changes)
    before, after = weights(model), weights(out)
    moved = {n: (before[n] != after[n]).any(1).nonzero().flatten().tolist() for n in before if before[n].ndim > 1}
    assert {n for n, ids in moved.items() if ids} == {"model.embed_tokens.weight", "lm_head.weight"}
    assert all(set(ids) <= set(NEW_ROWS) for ids in moved.values())


def _assert_equal(one: Any, other: Any) -> None:
    assert type(one) is type(other)
    if isinstance(one, Tensor):
        assert one.dtype == other.dtype and torch.equal(one, other)
    elif isinstance(one, dict):
        assert one.keys() == other.keys()
        for key in one:
            _assert_equal(one[key], other[key])
    elif isinstance(one, list | tuple):
        for a, b in zip(one, other, strict=True):
            _assert_equal(a, b)
    else:
        assert one == other

"""The peak of a run's memory is where it computes."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from surgeon.ops.memory import peak_rss_bytes
from surgeon.train.footprint import memory_bytes
from surgeon.train.job import prepare
from surgeon.train.memory import peak_memory
from surgeon.train.settings import CptSettings


def test_on_a_cpu_it_is_that_of_the_process() -> None:
    before = peak_rss_bytes()
    found = peak_memory(torch.device("cpu"))
    assert before <= found <= peak_rss_bytes()


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_on_a_gpu_it_holds_the_largest_tensor() -> None:
    device = torch.device("cuda")
    torch.cuda.reset_peak_memory_stats(device)
    held = torch.ones(1 << 20, device=device)
    size = held.nbytes
    del held
    assert size <= peak_memory(device) == torch.cuda.max_memory_allocated(device)


@pytest.mark.parametrize(("words", "copies"), [({}, True), ({"dtype": "float32"}, False), ({"compile": True}, False)])
def test_the_copies_of_autocast_are_counted_where_they_are_held(
    words: dict[str, Any], copies: bool, tiny: Callable[..., Path], corpus: Path, tmp_path: Path
) -> None:
    """Two bytes for an element of the blocks' trained matrices, where blocks are not compiled."""
    given = {"dtype": "bfloat16", "compile": False, "seq_len": 16, "tokens": 64, "device": "cpu"} | words
    settings = CptSettings(model=str(tiny("llama")), out=str(tmp_path / "out"), data=[str(corpus)], **given)
    job = prepare(settings, dry=True)
    inside = [p for n, p in job.model.named_parameters() if ".layers." in n and p.ndim == 2]
    held = memory_bytes(job)
    assert held.get("copies") == (2 * sum(p.numel() for p in inside) if copies else None)
    assert held["total"] == sum(held.values()) - held["total"]

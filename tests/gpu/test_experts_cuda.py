"""A mixture of experts on a GPU: grouped products in bfloat16, as they are and compiled, near what float32 gives."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from tiny import build
from torch.utils._python_dispatch import TorchDispatchMode

from surgeon.train.job import prepare
from surgeon.train.loop import Loop
from surgeon.train.run import run_cpt
from surgeon.train.settings import CptSettings

pytestmark = [pytest.mark.gpu, pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")]


@pytest.fixture
def settings(stories: Path, tmp_path: Path) -> dict[str, Any]:
    texts = (stories.parent / "domain.valid.jsonl").read_text(encoding="utf-8").splitlines()[:40]
    (tmp_path / "texts.jsonl").write_text("\n".join(texts) + "\n", encoding="utf-8")
    build("qwen3_moe", tmp_path / "model", vocab_size=512, hidden_size=64, moe_intermediate_size=64)
    for path in stories.glob("tokenizer*"):
        (tmp_path / "model" / path.name).write_bytes(path.read_bytes())
    return {
        "model": str(tmp_path / "model"), "data": [f"texts={tmp_path / 'texts.jsonl'}"], "tokens": 8192,
        "seq_len": 128, "batch_tokens": 1024, "lr": 1e-3, "device": "cuda",
    }  # fmt: skip


class Products(TorchDispatchMode):
    def __init__(self) -> None:
        super().__init__()
        self.seen: set[torch.dtype] = set()

    def __torch_dispatch__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if "grouped_mm" in str(function):
            self.seen |= {a.dtype for a in args if isinstance(a, torch.Tensor) and a.is_floating_point()}
        return function(*args, **(kwargs or {}))


def test_the_products_are_in_bfloat16(settings: dict[str, Any], tmp_path: Path) -> None:
    loop = Loop(prepare(CptSettings(**settings, out=str(tmp_path / "out"), compile=False)))
    assert loop.job.dtype == torch.bfloat16
    with Products() as products:
        loop._loss(loop.windows(0)).backward()
    assert products.seen == {torch.bfloat16}


@pytest.mark.parametrize("compiled", [False, True])
def test_a_run_ends_near_where_it_ends_in_float32(settings: dict[str, Any], tmp_path: Path, compiled: bool) -> None:
    exact = run_cpt(CptSettings(**settings, out=str(tmp_path / "exact"), dtype="float32", compile=False))
    half = run_cpt(CptSettings(**settings, out=str(tmp_path / "half"), dtype="bfloat16", compile=compiled))
    assert abs(half.final_loss - exact.final_loss) < 2e-2 * exact.final_loss

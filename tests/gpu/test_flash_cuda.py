"""flash-attention 3 on a GPU that it was written for: chosen where it is installed, held to what torch's kernel is."""

from __future__ import annotations

import importlib.util
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.nn.attention import current_flash_attention_impl

from surgeon.train import flash, segments
from surgeon.train.run import run_cpt
from surgeon.train.settings import CptSettings

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(
        not torch.cuda.is_available() or torch.cuda.get_device_capability()[0] != flash.MAJOR,
        reason="needs a GPU of compute capability 9",
    ),
    pytest.mark.skipif(importlib.util.find_spec(flash.PACKAGE) is None, reason=f"{flash.PACKAGE} is not installed"),
]

CUDA = torch.device("cuda")
CALLS = [segments.Call(8, 2, 64, 64, None), segments.Call(4, 4, 128, 128, 0.1, 512)]


@pytest.fixture(autouse=True)
def _restored() -> Iterator[None]:
    yield
    flash.restore()


def test_it_is_chosen_where_it_serves() -> None:
    assert flash.choose(CALLS, CUDA, torch.bfloat16, dropout=False)
    assert current_flash_attention_impl() == "FA3"
    assert flash.note() == "documents are attended to by flash-attention 3"
    flash.restore()
    assert flash.note() is None


def test_it_is_left_where_it_does_not(monkeypatch: pytest.MonkeyPatch) -> None:
    """With dropout, for a model that torch's kernel serves alone, and where the package does not load."""
    assert flash.choose(CALLS, CUDA, torch.bfloat16, dropout=True)
    assert current_flash_attention_impl() is None and "no dropout" in (flash.note() or "")
    with monkeypatch.context() as patched:
        patched.setattr(flash, "rows_hold", lambda *_: False)
        assert flash.choose(CALLS, CUDA, torch.bfloat16, dropout=False)
    assert current_flash_attention_impl() is None and "does not serve" in (flash.note() or "")
    with monkeypatch.context() as patched:
        patched.setattr(flash, "KERNEL", "FA0")
        assert flash.choose(CALLS, CUDA, torch.bfloat16, dropout=False)
        assert "does not load (Unknown flash attention impl 'FA0'" in (flash.note() or "")


@pytest.mark.parametrize("wrong", ["output", "gradient"])
def test_a_kernel_that_differs_is_found_out(wrong: str, monkeypatch: pytest.MonkeyPatch) -> None:
    own = segments._varlen

    def differs(query: Tensor, key: Tensor, value: Tensor, **given: Any) -> Tensor:
        if wrong == "gradient":
            value = value.detach() + 0.5 * (value - value.detach())
        return own(query, key, value * 1.1 if wrong == "output" else value, **given)

    assert segments.kernel_holds(CALLS, CUDA, torch.bfloat16)
    monkeypatch.setattr(segments, "_varlen", differs)
    assert not segments.kernel_holds(CALLS, CUDA, torch.bfloat16)


def test_a_run_ends_near_where_it_ends_with_the_kernel_of_torch(
    stories: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    texts = (stories.parent / "domain.valid.jsonl").read_text(encoding="utf-8").splitlines()[:40]
    (tmp_path / "texts.jsonl").write_text("\n".join(texts) + "\n", encoding="utf-8")
    given = {"model": str(stories), "data": [f"texts={tmp_path / 'texts.jsonl'}"], "tokens": 8192, "seq_len": 128,
             "batch_tokens": 1024, "lr": 1e-3, "device": "cuda", "compile": False,
             "eval": [f"texts={tmp_path / 'texts.jsonl'}"]}  # fmt: skip
    active: list[str | None] = []
    attend = segments.segment_attention

    def seen(*args: Any, **options: Any) -> Any:
        active.append(current_flash_attention_impl())
        return attend(*args, **options)

    monkeypatch.setattr(segments, "segment_attention", seen)
    ends = []
    for kernel in ("FA3", "own"):
        active.clear()
        with monkeypatch.context() as patched:
            if kernel == "own":
                patched.setattr(flash, "PACKAGE", "flash_attn_interface_that_is_not_there")
            ends.append(run_cpt(CptSettings(**given, out=str(tmp_path / kernel))))
        assert active[-1] == ("FA3" if kernel == "FA3" else None)
        assert current_flash_attention_impl() is None
    assert ends[0].final_loss == pytest.approx(ends[1].final_loss, rel=5e-3)
    assert ends[0].final_loss != ends[1].final_loss
    for one, other in zip(ends[0].eval, ends[1].eval, strict=True):
        assert one["nats_per_token"] == pytest.approx(other["nats_per_token"], rel=5e-3)

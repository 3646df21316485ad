"""The kernel that attends by lengths, where no flash kernel is: nothing is activated, and the checks of one hold."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor
from torch.nn.attention import current_flash_attention_impl

from surgeon.train import flash, segments

CPU = torch.device("cpu")
CALLS = [segments.Call(8, 2, 64, 64, None), segments.Call(4, 4, 16, 24, 0.1, 512)]


def test_on_a_cpu_there_is_no_kernel_to_choose() -> None:
    assert flash.choose(CALLS, CPU, torch.bfloat16, dropout=False)
    assert current_flash_attention_impl() is None
    assert flash.note() is None


def test_rows_in_half_precision_are_near_those_in_float32() -> None:
    assert segments.rows_hold(CALLS, CPU, torch.bfloat16)


@pytest.mark.parametrize("wrong", ["output", "gradient", "raises"])
def test_rows_that_differ_are_found_out(wrong: str, monkeypatch: pytest.MonkeyPatch) -> None:
    own = segments._alone_in_rows

    def differs(query: Tensor, key: Tensor, value: Tensor, **given: Any) -> Tensor:
        if query.dtype == torch.bfloat16:
            if wrong == "raises":
                raise RuntimeError("no such kernel")
            value = value * 1.1 if wrong == "output" else value.detach() + 0.5 * (value - value.detach())
        return own(query, key, value, **given)

    monkeypatch.setattr(segments, "_alone_in_rows", differs)
    assert not segments.rows_hold(CALLS, CPU, torch.bfloat16)

"""A model whose configuration asks for a loss of its routers is told that none is added."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from surgeon.progress import Silent
from surgeon.train.run import run_cpt
from surgeon.train.settings import CptSettings


@pytest.mark.parametrize("asked", [True, False])
def test_a_run_says_that_routers_are_not_balanced(
    asked: bool, tiny: Callable[..., Path], corpus: Path, tmp_path: Path
) -> None:
    said: list[str] = []

    class Said(Silent):
        def say(self, line: str) -> None:
            said.append(line)

    model = tiny("mixtral", output_router_logits=asked, router_aux_loss_coef=0.5)
    options = {"tokens": 64, "seq_len": 16, "batch_tokens": 64, "device": "cpu"}
    run_cpt(CptSettings(model=str(model), data=[str(corpus)], out=str(tmp_path / "out"), **options), Said())
    assert any("output_router_logits" in line for line in said) is asked

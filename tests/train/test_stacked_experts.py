"""Stacked experts of a run in bfloat16: their grouped products are taken in it, and masters stay float32."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from tiny import build
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from transformers import AutoModelForCausalLM

from surgeon.train.experts import under_autocast
from surgeon.train.job import prepare
from surgeon.train.settings import CptSettings

KINDS = ("mixtral", "qwen3_moe", "gpt_oss", "deepseek_v3")


class Products(TorchDispatchMode):
    """The types of what goes into grouped products, forwards and backwards."""

    def __init__(self) -> None:
        super().__init__()
        self.seen: list[torch.dtype] = []

    def __torch_dispatch__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if "grouped_mm" in str(function):
            self.seen += [a.dtype for a in args if isinstance(a, Tensor) and a.is_floating_point()]
        return function(*args, **(kwargs or {}))


def passed(model: Any, dtype: torch.dtype) -> tuple[float, dict[str, Tensor], list[torch.dtype]]:
    """(loss, gradients, types of the grouped products) of a pass."""
    ids = torch.randint(0, 30, (2, 12), generator=torch.Generator().manual_seed(0))
    model.zero_grad()
    with Products() as products, torch.autocast("cpu", dtype, enabled=dtype != torch.float32):
        loss = model(input_ids=ids, labels=ids, use_cache=False).loss
        loss.backward()
    grads = {n: p.grad.clone() for n, p in model.named_parameters() if ".experts." in n}
    return float(loss.detach()), grads, products.seen


@pytest.fixture(params=KINDS)
def model(request: pytest.FixtureRequest, tmp_path: Path) -> Any:
    build(request.param, tmp_path / "model")
    return AutoModelForCausalLM.from_pretrained(tmp_path / "model", dtype=torch.float32)


def test_the_products_are_taken_in_the_type_of_autocast(model: Any) -> None:
    """Against the library's loop over experts, whose products autocast casts; without autocast nothing changes."""
    exact, plain, _ = passed(model, torch.float32)
    _, _, before = passed(model, torch.bfloat16)
    assert set(before) == {torch.float32}  # what this is for: without it these are not what the run says
    under_autocast(model)
    _, _, seen = passed(model, torch.bfloat16)
    assert seen and set(seen) == {torch.bfloat16}
    again, grads, whole = passed(model, torch.float32)
    assert again == exact and set(whole) == {torch.float32}
    assert all(torch.equal(grads[name], plain[name]) for name in plain)
    halved, grads, _ = passed(model, torch.bfloat16)
    for module in model.modules():
        if hasattr(module, "has_gate"):
            module.config._experts_implementation = "eager"
    eager, expected, _ = passed(model, torch.bfloat16)
    off, loop = (sum(float((g[n] - plain[n]).square().sum()) for n in plain) ** 0.5 for g in (grads, expected))
    assert 0 < off < 1.5 * loop  # as far from float32 as the loop is
    if model.config.model_type == "mixtral":  # whose loop takes the same sums
        assert halved == eager
        assert all((g - expected[n]).norm() < 1e-4 * expected[n].norm() + 1e-9 for n, g in grads.items())
    assert all(grad.dtype == torch.float32 for grad in grads.values())


def test_a_run_in_bfloat16_goes_by_them(tiny: Callable[..., Path], corpus: Path, tmp_path: Path) -> None:
    words: dict[str, Any] = {"data": [str(corpus)], "tokens": 256, "seq_len": 16, "batch_tokens": 64}
    for dtype, name in (("bfloat16", "surgeon_grouped_mm"), ("float32", "grouped_mm")):
        settings = CptSettings(model=str(tiny("qwen3_moe")), out=str(tmp_path / dtype), dtype=dtype, **words)
        found = [m.config._experts_implementation for m in prepare(settings).model.modules() if hasattr(m, "has_gate")]
        assert found and set(found) == {name}

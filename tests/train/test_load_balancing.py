"""Experts are balanced by windows: the library's loss for one of one block, and the same however it is computed."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers
from torch import Tensor
from transformers.models.mixtral.modeling_mixtral import load_balancing_loss_func

from surgeon.checkpoint.header import read_header
from surgeon.checkpoint.reader import read
from surgeon.data.pack import IGNORED
from surgeon.errors import UsageError
from surgeon.train import attention
from surgeon.train.batch import Batch, by_segment, flat
from surgeon.train.job import prepare
from surgeon.train.loop import Loop
from surgeon.train.objectives import load_balancing
from surgeon.train.objectives.load_balancing import balance
from surgeon.train.run import run_cpt
from surgeon.train.settings import CptSettings

EXPERTS, EACH, SEGMENTS = 4, 2, ((3, 5), (8,), (1, 2, 5))


def batch() -> Batch:
    """Three windows of 8 tokens; a prompt of two and the last segment of the last one, padding, have no label."""
    lengths = [n for row in SEGMENTS for n in row]
    ids = torch.arange(24).view(3, 8)
    positions = torch.stack([torch.cat([torch.arange(n) for n in row]) for row in SEGMENTS])
    labels = ids.clone()
    labels[1, :2] = IGNORED
    labels[2, 3:] = IGNORED
    return Batch(ids, positions, labels, tuple(lengths), segments=tuple(len(row) for row in SEGMENTS))


def logits(number: int) -> list[Tensor]:
    generator = torch.Generator().manual_seed(0)
    return [torch.randn(24, EXPERTS, generator=generator) for _ in range(number)]


def by_hand(blocks: list[Tensor], held: Batch) -> float:
    """Token by token, in Python's numbers."""
    total = 0.0
    for block in blocks:
        for row in range(3):
            tokens = [8 * row + i for i in range(8) if held.labels[row, i] != IGNORED]
            shares, means = [0.0] * EXPERTS, [0.0] * EXPERTS
            for token in tokens:
                values = block[token].double().softmax(0).tolist()
                for expert in sorted(range(EXPERTS), key=lambda e: -values[e])[:EACH]:
                    shares[expert] += 1 / len(tokens)
                for expert in range(EXPERTS):
                    means[expert] += values[expert] / len(tokens)
            total += len(tokens) * EXPERTS * sum(f * p for f, p in zip(shares, means, strict=True))
    return total / len(blocks)


def test_it_is_the_formula_of_every_window() -> None:
    assert float(balance(logits(3), batch(), EACH)) == pytest.approx(by_hand(logits(3), batch()), rel=1e-6)


def test_it_is_the_librarys_of_one_window_of_one_block() -> None:
    held = batch()
    one = Batch(held.ids[:1], held.positions[:1], held.labels[:1], SEGMENTS[0], segments=(2,))
    found = [float(balance([block[:8]], one, EACH)) for block in logits(2)]
    for block, mine in zip(logits(2), found, strict=True):
        assert mine == pytest.approx(8 * float(load_balancing_loss_func((block[:8],), EXPERTS, EACH)), rel=1e-6)
    assert float(balance([b[:8] for b in logits(2)], one, EACH)) == pytest.approx(sum(found) / 2, rel=1e-6)


def test_it_is_the_same_however_documents_are_kept_apart() -> None:
    held, blocks = batch(), logits(2)
    rows = by_segment(held)
    places = torch.full((len(held.lengths), max(held.lengths)), -1)
    at = 0
    for number, length in enumerate(held.lengths):
        places[number, :length] = torch.arange(at, at + length)
        at += length
    padded = [torch.where(places.view(-1, 1) < 0, 9.0, block[places.view(-1)]) for block in blocks]
    expected = float(balance(blocks, held, EACH))
    assert float(balance(blocks, flat(held), EACH)) == expected
    assert float(balance(padded, rows, EACH)) == pytest.approx(expected, rel=1e-6)


def test_all_experts_alike_cost_as_many_as_a_token_has() -> None:
    """The least there is; all tokens at the same two experts cost as much as there are experts."""
    held = batch()
    labels = int((held.labels != IGNORED).sum())
    alike = torch.zeros(24, EXPERTS) + 1e-6 * torch.randn(24, EXPERTS, generator=torch.Generator().manual_seed(0))
    assert float(balance([alike], held, EACH)) == pytest.approx(EACH * labels, rel=1e-5)
    same = torch.tensor([50.0, 50.0, 0.0, 0.0]).expand(24, 4)
    assert float(balance([same], held, EACH)) == pytest.approx(EXPERTS * labels, rel=1e-5)


@pytest.fixture
def settings(corpus: Path, tmp_path: Path) -> dict[str, Any]:
    return {
        "data": [str(corpus)], "out": str(tmp_path / "out"), "tokens": 256, "seq_len": 16, "batch_tokens": 64,
        "device": "cpu", "objective": "load_balancing", "lr": 1e-3,
    }  # fmt: skip


FAMILIES = ("mixtral", "qwen3_moe", "qwen2_moe", "olmoe", "granitemoe", "gpt_oss")


@pytest.mark.parametrize("family", FAMILIES)
def test_a_step_is_the_same_for_any_micro_batch(
    family: str, tiny: Callable[..., Path], settings: dict[str, Any]
) -> None:
    """And its routers move otherwise than without."""
    if family == "granitemoe" and transformers.__version__.startswith("5.17."):  # it has no such loss there
        with pytest.raises(UsageError, match="no loss that balances routers"):
            Loop(prepare(CptSettings(model=str(tiny(family)), **settings)))
        return
    found = []
    for micro, coefficient in ((1, 0.5), (4, 0.5), (4, 0.0)):
        given = settings | {"micro_batch": micro, "option": {"coefficient": coefficient}}
        loop = Loop(prepare(CptSettings(model=str(tiny(family)), **given)))
        for part in loop._parts(loop.windows(0), micro):
            loop._loss(part).backward()
        found.append({n: p.grad for n, p in loop.parameters.items() if p.grad is not None})
    one, other, without = found
    routers = [n for n in one if n.endswith((".gate.weight", ".router.weight", ".router.layer.weight"))]
    assert routers
    for name in one:
        bound = 1e-5 * float(other[name].abs().max()) + 1e-7
        assert float((one[name] - other[name]).abs().max()) <= bound, name
    assert all(float((without[n] - other[n]).abs().max()) > 1e-3 * float(other[n].abs().max()) for n in routers)


def test_experts_become_more_alike(tiny: Callable[..., Path], settings: dict[str, Any]) -> None:
    def imbalance(path: str) -> float:
        loop = Loop(prepare(CptSettings(**(settings | {"model": path, "out": settings["out"] + "-probe"}))))
        arranged, arguments = attention.arranged(_collated(loop), loop.job.mode)
        with torch.no_grad():
            _, found = loop.forward.routed(arranged, arguments)
            return float(balance(found, arranged, EACH)) / int((arranged.labels != IGNORED).sum())

    model = str(tiny("mixtral"))
    given = settings | {"model": model, "option": {"coefficient": 100.0}, "tokens": 4096, "lr": 1e-2}
    run_cpt(CptSettings(**given))
    before, after = imbalance(model), imbalance(settings["out"])
    assert EACH - 1e-3 <= after < EACH + 0.5 * (before - EACH)


def _collated(loop: Loop) -> Batch:
    from surgeon.train.batch import collate

    return collate(loop.windows(0), loop.job.device)


@pytest.mark.parametrize("more", [{"checkpointing": "blocks"}, {"compile": True}], ids=str)
def test_blocks_may_be_computed_again_or_compiled(
    more: dict[str, Any], tiny: Callable[..., Path], settings: dict[str, Any], tmp_path: Path
) -> None:
    given = settings | {"model": str(tiny("mixtral")), "option": {"coefficient": 0.5}}
    run_cpt(CptSettings(**given))
    run_cpt(CptSettings(**(given | more | {"out": str(tmp_path / "other")})))
    one, other = (read_header(tmp_path / name / "model.safetensors")[0] for name in ("out", "other"))
    for name in one:
        assert torch.allclose(read(one[name]), read(other[name]), rtol=1e-4, atol=1e-5), name


def test_what_it_is_not_for_is_refused(tiny: Callable[..., Path], settings: dict[str, Any]) -> None:
    dense = tiny("qwen3_moe", mlp_only_layers=[0, 1, 2, 3, 4, 5, 6, 7])
    for model, message in (
        (tiny("llama"), "no loss that balances routers of LlamaForCausalLM"),
        (
            tiny("glm4_moe", n_routed_experts=8, first_k_dense_replace=1),
            "no loss that balances routers of Glm4MoeForCausalLM",
        ),
        (dense, "no loss that balances routers of Qwen3MoeForCausalLM"),
    ):
        with pytest.raises(UsageError, match=message):
            run_cpt(CptSettings(model=str(model), **settings))
        assert not Path(settings["out"] + ".run").exists() or not list(Path(settings["out"] + ".run").glob("*.jsonl"))


def test_the_coefficient_is_the_models_where_none_is_given(
    tiny: Callable[..., Path], settings: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    model = str(tiny("mixtral", router_aux_loss_coef=0.25))
    losses = []
    for option in ({}, {"coefficient": 0.25}, {"coefficient": 0.5}):
        loop = Loop(prepare(CptSettings(model=model, **(settings | {"option": option}))))
        losses.append(float(loop._loss(loop.windows(0)).detach()))
    assert losses[0] == losses[1] != losses[2]
    monkeypatch.setattr(load_balancing, "_OF_MODEL", ())
    with pytest.raises(UsageError, match="names no coefficient"):
        Loop(prepare(CptSettings(model=model, **settings)))

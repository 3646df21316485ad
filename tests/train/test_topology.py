"""Similarities of documents: the authors' formula, blind to turns of space, the same however windows are dealt."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any, ClassVar, get_args

import numpy as np
import pytest
import torch
import torch.nn.functional as F  # noqa: N812
from test_teacher import move, teacher_of
from tiny_models import model_of
from torch import Tensor

from surgeon.data.pack import IGNORED, Window
from surgeon.progress import Silent
from surgeon.train import attention
from surgeon.train.batch import Batch, collate
from surgeon.train.documents import means
from surgeon.train.objectives.topology import divergence, topology
from surgeon.train.run import run_cpt
from surgeon.train.settings import CptSettings

SIZES = [(5, 4, 6, 9), (12, 12), (3, 3, 3, 3, 3, 9), (24,), (8, 8, 8)]  # the segments of windows of 24 tokens
CPU = torch.device("cpu")


def windows() -> list[Window]:
    """The last segment of the third one is padding."""
    rng = np.random.default_rng(3)
    found = []
    for number, sizes in enumerate(SIZES):
        ids = rng.integers(3, 500, 24).astype(np.int32)
        labels = np.roll(ids, -1).astype(np.int64)
        used = 15 if number == 2 else 24
        labels[used - 1 :] = IGNORED
        labels[np.cumsum(sizes)[:-1] - 1] = IGNORED
        found.append(Window(ids, labels, sizes, used))
    return found


@pytest.fixture
def batch() -> Batch:
    return collate(windows(), CPU)


def vectors(batch: Batch, width: int, seed: int) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(len(batch.lengths), width, generator=generator)


def theirs(student: Tensor, teacher: Tensor) -> Tensor:
    """As the authors' code has it for a batch of texts (models/clip_pretrain.py, KevinLight831/CTP), a row each."""
    itself = torch.arange(len(student))[:, None]
    sims = [(F.normalize(x, dim=-1) @ F.normalize(x, dim=-1).T).scatter(1, itself, -1000) for x in (student, teacher)]
    logs, wanted = F.log_softmax(sims[0] / 0.07, dim=1), F.softmax(sims[1] / 0.07, dim=1)
    return torch.nn.KLDivLoss(reduction="none")(logs, wanted).sum(-1)


def test_arithmetic_is_float32_also_where_the_model_has_less(batch: Batch) -> None:
    student, teacher = vectors(batch, 16, 0), vectors(batch, 16, 1)
    _, labels = means(torch.zeros(batch.labels.numel(), 1), batch)
    expected = divergence(student, teacher, labels, batch, 0.07)
    with torch.autocast("cpu", torch.bfloat16):
        assert torch.equal(divergence(student, teacher, labels, batch, 0.07), expected)


@pytest.mark.parametrize(("seq_len", "said"), [(16, True), (128, False)])
def test_a_run_whose_windows_hold_too_few_documents_says_so(
    seq_len: int, said: bool, tiny: Callable[..., Path], corpus: Path, tmp_path: Path
) -> None:
    class Listening(Silent):
        heard: ClassVar[list[str]] = []

        def say(self, line: str) -> None:
            self.heard.append(line)

    Listening.heard.clear()
    model = tiny("llama", max_position_embeddings=128)
    settings = CptSettings(
        model=str(model), out=str(tmp_path / "out"), data=[str(corpus)], tokens=512, seq_len=seq_len,
        batch_tokens=128, lr=1e-3, device="cpu", objective="topology",
    )  # fmt: skip
    run_cpt(settings, Listening())
    notes = [text for text in Listening.heard if text.startswith("topology: ")]
    assert len(notes) == said
    if said:
        assert "32 windows of the first 4 steps hold fewer than 3 documents" in notes[0]


def test_it_is_the_authors_formula_window_by_window(batch: Batch) -> None:
    student, teacher = vectors(batch, 16, 0).requires_grad_(), vectors(batch, 16, 1)
    _, labels = means(torch.zeros(batch.labels.numel(), 1), batch)
    found = divergence(student, teacher, labels, batch, 0.07)
    expected, at = torch.zeros(()), 0
    for sizes in SIZES:
        rows = [at + n for n in range(len(sizes)) if labels[at + n]]
        at += len(sizes)
        if len(rows) > 1:  # the authors' batch has others to compare with
            expected = expected + (labels[rows] * theirs(student[rows], teacher[rows])).sum()
    assert float(found.detach()) > 1 and torch.allclose(found, expected, rtol=1e-5)
    mine, plain = (torch.autograd.grad(loss, student)[0] for loss in (found, expected))
    assert float((mine - plain).abs().max()) <= 1e-5 * float(plain.abs().max())


def test_it_is_blind_to_turns_and_lengths_and_sees_neighbours(batch: Batch) -> None:
    teacher = vectors(batch, 16, 1)
    _, labels = means(torch.zeros(batch.labels.numel(), 1), batch)
    turn = torch.linalg.qr(torch.randn(16, 16, generator=torch.Generator().manual_seed(5)))[0]
    turned = F.pad(teacher @ turn, (0, 8)) * torch.linspace(0.1, 9, len(teacher))[:, None]
    assert abs(float(divergence(turned, teacher, labels, batch, 0.07))) <= 1e-5 * float(labels.sum())
    assert float(divergence(teacher.roll(1, 0), teacher, labels, batch, 0.07)) > 1
    assert float(divergence(teacher, teacher.clone(), labels, batch, 0.07)) == 0


def test_two_documents_have_nothing_to_say() -> None:
    two = collate(windows()[1:2], CPU)
    student = vectors(two, 16, 0).requires_grad_()
    loss = divergence(student, vectors(two, 16, 1), torch.tensor([11.0, 11.0]), two, 0.07)
    assert float(loss.detach()) == 0 and not torch.autograd.grad(loss, student)[0].any()


def loss_of(held: list[Window], mode: Any, weight: float = 2.0) -> tuple[Tensor, list[Tensor]]:
    """Summed over micro-batches of the given windows, with its gradient."""
    model = model_of("llama")
    trained = dict(model.named_parameters())
    forward, teacher = teacher_of(model, trained)
    move(trained)
    forward.mode = teacher.forward.mode = mode
    total = torch.zeros(())
    for part in held:
        arranged, arguments = attention.arranged(collate(part, CPU), mode)
        loss = topology(forward, arranged, arguments, teacher, weight=weight)
        loss.backward()
        total += loss.detach()
    return total, [p.grad.clone() for p in model.parameters() if p.grad is not None]


@pytest.mark.parametrize("size", [1, 2])
def test_however_windows_are_dealt_it_is_the_same(size: int) -> None:
    held = windows()
    whole, gradients = loss_of([held], "rows")
    parts, others = loss_of([held[at : at + size] for at in range(0, len(held), size)], "rows")
    assert float((whole - parts).abs()) <= 1e-5 * float(whole)
    for one, other in zip(gradients, others, strict=True):
        assert float((one - other).abs().max()) <= 1e-4 * max(1.0, float(one.abs().max()))
    assert float(whole) > float(loss_of([held], "rows", 0.0)[0]) + 1


def test_arrangements_keep_the_windows(batch: Batch) -> None:
    assert batch.segments == tuple(map(len, SIZES))
    for mode in get_args(attention.Mode):
        assert attention.arranged(batch, mode)[0].segments == batch.segments

"""The loss inside the head is that of the logits, with their gradients; torch's own chunked loss is a third."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F  # noqa: N812
from tiny_models import model_of

from surgeon.train import linear_loss
from surgeon.train.forward import nats_of
from surgeon.train.head import Head, head_of
from surgeon.train.linear_loss import linear_nats

TOKENS, WIDTH, VOCAB = 37, 24, 101


def inputs(bias: bool) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor | None, torch.Tensor]:
    torch.manual_seed(0)
    labels = torch.randint(0, VOCAB, (TOKENS,))
    labels[::5] = -100
    held = torch.randn(TOKENS, WIDTH), torch.randn(VOCAB, WIDTH) * 0.3, torch.randn(VOCAB) if bias else None
    for tensor in held:
        if tensor is not None:
            tensor.requires_grad_()
    return *held, labels


@pytest.mark.parametrize("chunk", [1, 500, 1 << 22])
@pytest.mark.parametrize("bias", [False, True])
@pytest.mark.parametrize("other", ["logits", "torch"])
def test_loss_and_gradients(chunk: int, bias: bool, other: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(linear_loss, "CHUNK_ELEMENTS", {"cpu": chunk})
    found, expected = [], []
    for own, results in ((True, found), (False, expected)):
        hidden, weight, offset, labels = inputs(bias)
        if own:
            loss = linear_nats(hidden, weight, offset, labels)
        elif other == "logits":
            loss = F.cross_entropy(F.linear(hidden, weight, offset), labels, reduction="sum")
        elif not hasattr(F, "linear_cross_entropy"):
            pytest.skip("this torch has no linear_cross_entropy")
        else:
            options = torch.nn.LinearCrossEntropyOptions()
            loss = F.linear_cross_entropy(hidden, weight, labels, linear_bias=offset, reduction="sum", options=options)
        (loss * 0.25).backward()
        results += [loss.detach(), hidden.grad, weight.grad, *([offset.grad] if offset is not None else [])]
    for mine, theirs in zip(found, expected, strict=True):
        assert float((mine - theirs).abs().max() / theirs.abs().max()) <= 1e-5


@pytest.mark.long
@pytest.mark.skipif(shutil.which("g++") is None, reason="torch.compile needs a C++ compiler on a CPU")
@pytest.mark.parametrize("half", [False, True])
def test_the_compiled_loss_is_the_one_that_is_written(half: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    """Two chunks and a shorter one, from one graph. In half precision the gradient of the logits and its product
    are rounded to it in both, to the one neighbour or the other."""
    from torch._dynamo.utils import counters

    monkeypatch.setattr(linear_loss, "CHUNK_ELEMENTS", {"cpu": 15 * VOCAB})
    torch._dynamo.reset()
    counters.clear()
    results = []
    for compiled in (True, False):
        hidden, weight, _, labels = inputs(False)
        with torch.autocast("cpu", torch.bfloat16, enabled=half):
            loss = linear_nats(hidden, weight, None, labels, compiled=compiled)
        loss.backward()
        results.append((loss.detach(), hidden.grad, weight.grad))
    assert counters["stats"]["unique_graphs"] == 1
    for mine, theirs, bound in zip(*results, (1e-6, *[2**-7 if half else 1e-6] * 2), strict=True):
        assert float((mine - theirs).abs().max()) <= bound * float(theirs.abs().max())


def test_what_is_frozen_costs_no_gradient() -> None:
    hidden, weight, _, labels = inputs(False)
    weight.requires_grad_(False)
    linear_nats(hidden, weight, None, labels).backward()
    assert weight.grad is None and hidden.grad is not None


def test_in_half_precision_it_is_the_loss_of_the_half_logits() -> None:
    hidden, weight, _, labels = inputs(False)
    with torch.autocast("cpu", torch.bfloat16):
        mine = linear_nats(hidden, weight, None, labels)
        theirs = nats_of(F.linear(hidden, weight), labels)
    assert float(mine.detach()) == pytest.approx(float(theirs.detach()), rel=1e-6)
    mine.backward()
    assert weight.grad is not None and weight.grad.dtype == torch.float32


@pytest.mark.parametrize("family", ["llama", "qwen3", "gpt2", "phi", "mixtral"])
def test_a_head_gives_the_loss_in_place_of_logits(family: str) -> None:
    model = model_of(family)
    ids = torch.randint(3, 512, (2, 9))
    labels = torch.randint(0, 512, (2, 9))
    labels[0, :4] = -100
    results = []
    module = head_of(model)
    assert module is not None
    head = Head(module)
    for fused in (True, False):
        model.zero_grad()
        if fused:
            with head.labels(labels):
                loss = model(input_ids=ids, use_cache=False).logits
        else:
            loss = nats_of(model(input_ids=ids, use_cache=False).logits, labels)
        loss.backward()
        results.append(
            {"loss": loss.detach()} | {n: p.grad for n, p in model.named_parameters() if p.grad is not None}
        )
    for name, value in results[1].items():
        assert float((results[0][name] - value).abs().max()) <= 1e-5 * max(1.0, float(value.abs().max())), name


@pytest.mark.parametrize(
    ("family", "changes"), [("gemma2", {}), ("cohere", {"logit_scale": 0.5}), ("granite", {"logits_scaling": 4.0})]
)
def test_logits_that_are_more_than_the_heads_output_keep_the_plain_way(family: str, changes: dict[str, Any]) -> None:
    assert head_of(model_of(family, **changes)) is None


@pytest.mark.parametrize(("family", "plain"), [("llama", True), ("gemma2", False), ("granite", False)])
def test_a_head_of_zeros_does_not_hide_what_is_done_to_its_output(family: str, plain: bool) -> None:
    """As some models begin; zeros stay zeros under any scale and any soft cap."""
    model = model_of(family, tie_word_embeddings=False, **({"logits_scaling": 4.0} if family == "granite" else {}))
    torch.nn.init.zeros_(model.lm_head.weight)
    assert (head_of(model) is not None) is plain


def test_a_run_with_logits_and_one_without_agree(tmp_path: Path, stories: Path, corpus: Path) -> None:
    """A user's objective that asks for logits, beside the one that lets the head make the loss."""
    from surgeon.train.run import run_cpt
    from surgeon.train.settings import CptSettings

    losses = []
    for name in ("next_token", "objective_of_logits:of_logits"):
        settings = CptSettings(
            model=str(stories), out=str(tmp_path / f"out{len(losses)}"), data=[str(corpus)], objective=name,
            tokens=512, seq_len=32, batch_tokens=128, lr=1e-3, device="cpu",
        )  # fmt: skip
        losses.append(run_cpt(settings).final_loss)
    assert losses[0] == pytest.approx(losses[1], rel=1e-5)


@pytest.fixture(autouse=True)
def objective_of_logits(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "objective_of_logits.py").write_text(
        "from surgeon.train.forward import nats_of\n\n\ndef of_logits(logits, labels):\n"
        '    """next_token by way of the logits."""\n    return nats_of(logits, labels)\n'
    )
    monkeypatch.syspath_prepend(tmp_path)

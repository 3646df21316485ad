"""The teacher is the model at the start: shared blocks run once, and the bits are those of a second model."""

from __future__ import annotations

import copy
from typing import Any

import pytest
import torch
from tiny_models import model_of
from torch import Tensor

from surgeon.train import attention
from surgeon.train.batch import Batch
from surgeon.train.blocks import blocks_of
from surgeon.train.forward import Forward
from surgeon.train.objectives.distill import distill
from surgeon.train.prefix import Prefix, shared_prefix
from surgeon.train.teacher import Teacher

FAMILIES = ["llama", "qwen3", "gpt2", "gpt_neox", "gemma2", "mixtral", "cohere", "falcon"]
NO_DROPOUT = {"resid_pdrop": 0.0, "embd_pdrop": 0.0, "attn_pdrop": 0.0}


def batch_of(model: Any) -> Batch:
    torch.manual_seed(1)
    held = attention.probe(model)
    labels = torch.randint(0, 512, held.ids.shape)
    labels[0, :3] = -100
    return Batch(held.ids, held.positions, labels, held.lengths)


def freeze_below(model: Any, block: int) -> dict[str, Any]:
    """Trains blocks from `block` on."""
    prefix = next(n for n, m in model.named_modules() if m is blocks_of(model))
    wanted = tuple(f"{prefix}.{n}." for n in range(block, len(blocks_of(model))))
    for name, parameter in model.named_parameters():
        parameter.requires_grad_(name.startswith(wanted))
    return {name: p for name, p in model.named_parameters() if p.requires_grad}


def teacher_of(model: Any, trained: dict[str, Any], *, share: bool = True) -> tuple[Forward, Teacher]:
    forward = Forward(model, attention.choose(model, 30))
    anchors = {name: p.detach().clone() for name, p in trained.items()}
    return forward, Teacher(forward, anchors, shared_prefix(forward) if share else None)


@torch.no_grad()
def move(trained: dict[str, Any]) -> None:
    torch.manual_seed(2)
    for parameter in trained.values():
        parameter += 0.05 * torch.randn_like(parameter)


class Counted:
    """How often each block is run."""

    def __init__(self, model: Any) -> None:
        self.runs = [0] * len(blocks_of(model))
        for number, block in enumerate(blocks_of(model)):
            block.register_forward_hook(self._hook(number))

    def _hook(self, number: int) -> Any:
        def count(*_: Any) -> None:
            self.runs[number] += 1

        return count


@pytest.mark.parametrize("family", FAMILIES)
def test_a_shared_prefix_runs_once_and_gives_the_bits_of_a_second_model(family: str) -> None:
    model = model_of(family, **(NO_DROPOUT if family == "gpt2" else {}))
    second = copy.deepcopy(model)
    trained = freeze_below(model, 2)
    forward, teacher = teacher_of(model, trained)
    assert teacher.prefix is not None and teacher.prefix.count == 2
    _, alone = Forward(second, forward.mode), Teacher(Forward(second, forward.mode), {})
    second.set_attn_implementation(model.config._attn_implementation)
    move(trained)
    model.train()
    batch = batch_of(model)
    arranged, arguments = attention.arranged(batch, forward.mode)
    found: list[dict[str, Tensor]] = []
    counted = Counted(model)
    for other in (teacher, alone):
        model.zero_grad()
        loss = distill(forward, arranged, arguments, other)
        loss.backward()
        found.append({"loss": loss.detach()} | {n: p.grad.clone() for n, p in trained.items()})
    assert counted.runs == [2, 2, 3], "with the teacher 1, 1, 2; then the student alone"
    assert all(torch.equal(found[0][name], found[1][name]) for name in found[0])
    assert model.training and not any(p.grad is not None for n, p in model.named_parameters() if n not in trained)


@pytest.mark.parametrize("block", [0, 1, 2])
def test_without_sharing_it_is_the_same(block: int) -> None:
    losses = []
    for share in (True, False):
        model = model_of("llama")
        trained = freeze_below(model, block)
        forward, teacher = teacher_of(model, trained, share=share)
        move(trained)
        arranged, arguments = attention.arranged(batch_of(model), forward.mode)
        loss = distill(forward, arranged, arguments, teacher)
        loss.backward()
        losses.append([loss.detach(), *(p.grad for p in trained.values())])
    assert all(torch.equal(a, b) for a, b in zip(*losses, strict=True))


@pytest.mark.parametrize(
    ("family", "changes"),
    [
        ("llama", {"attention_dropout": 0.01}),
        ("gpt2", NO_DROPOUT | {"resid_pdrop": 0.01}),
        ("gpt2", NO_DROPOUT | {"attn_pdrop": 0.01}),
        ("gpt2", NO_DROPOUT | {"embd_pdrop": 1e-7}),  # that it may draw is enough
    ],
)
def test_where_the_student_drops_out_nothing_is_shared(family: str, changes: dict[str, Any]) -> None:
    model = model_of(family, **changes)
    freeze_below(model, 2)
    assert shared_prefix(Forward(model, "mask")).count == 0


def test_a_trained_embedding_ends_the_prefix_and_a_trained_head_does_not() -> None:
    model = model_of("llama")
    for name, expected in (("model.embed_tokens.weight", 0), ("lm_head.weight", 3), ("model.norm.weight", 3)):
        for other, parameter in model.named_parameters():
            parameter.requires_grad_(other == name)
        assert shared_prefix(Forward(model, "mask")).count == expected
        model.lm_head = copy.deepcopy(model.lm_head)  # without the head of the Forward before
        vars(model.lm_head).pop("forward", None)


def test_dropout_of_the_student_does_not_depend_on_the_teacher() -> None:
    model = model_of("llama", attention_dropout=0.3)
    trained = dict(model.named_parameters())
    forward, teacher = teacher_of(model, trained)
    model.train()
    arranged, arguments = attention.arranged(batch_of(model), forward.mode)
    drawn = []
    for with_teacher in (False, True):
        torch.manual_seed(5)
        if with_teacher:
            teacher.rows(arguments)
        drawn.append(forward.nats(arranged, arguments).detach())
    assert torch.equal(*drawn)
    first, second = (teacher.rows(arguments)[slice(0, 30)] for _ in range(2))
    assert torch.equal(first, second), "the teacher itself has no dropout"


def test_tied_heads_are_swapped_too() -> None:
    model = model_of("llama", tie_word_embeddings=True)
    second = copy.deepcopy(model)
    trained = dict(model.named_parameters())
    forward, teacher = teacher_of(model, trained)
    move(trained)
    _, arguments = attention.arranged(batch_of(model), forward.mode)
    found = teacher.rows(arguments)[slice(0, 30)]
    assert torch.equal(found, second(**arguments, use_cache=False).logits.reshape(30, -1))
    assert all(torch.equal(p, trained[n]) for n, p in model.named_parameters()), "and swapped back"


def test_what_was_kept_of_a_pass_is_let_go() -> None:
    model = model_of("llama")
    freeze_below(model, 1)
    forward = Forward(model, "mask")
    prefix = shared_prefix(forward)
    _, arguments = attention.arranged(batch_of(model), "mask")
    with prefix.recorded():
        forward.output(arguments)
    assert isinstance(prefix, Prefix) and prefix._held is not None
    with prefix.replayed():
        forward.output(arguments)
    assert prefix._held is None
    assert [type(b).__name__ for b in blocks_of(model)] == ["LlamaDecoderLayer"] * 3

"""The divergence: torch's own KL, zero to the bit between equals; the swap; a sum over the right tokens."""

from __future__ import annotations

import copy
from typing import Any

import pytest
import torch
import torch.nn.functional as F  # noqa: N812
from test_teacher import batch_of, move, teacher_of
from tiny_models import model_of
from torch import Tensor

from surgeon.train import attention, linear_loss
from surgeon.train.batch import Batch
from surgeon.train.distillation import divergences
from surgeon.train.forward import Forward, nats_of
from surgeon.train.objectives.distill import distill
from surgeon.train.objectives.hidden_distill import hidden_distill
from surgeon.train.objectives.kl_reference import kl_reference
from surgeon.train.objectives.logit_swap import logit_swap, swapped
from surgeon.train.teacher import Teacher

OBJECTIVES = [
    (distill, {}), (distill, {"temperature": 1.0}), (logit_swap, {}), (kl_reference, {}), (hidden_distill, {}),
    (hidden_distill, {"of": "last"}), (hidden_distill, {"of": "tokens"}),
]  # fmt: skip


@pytest.fixture
def random() -> tuple[Tensor, Tensor, Tensor]:
    torch.manual_seed(0)
    return torch.randn(40, 101) * 3, torch.randn(40, 101) * 3, torch.randint(0, 101, (40,))


@pytest.mark.parametrize("temperature", [1.0, 2.0, 0.5])
def test_it_is_torchs_divergence_with_its_gradient(random: tuple[Tensor, ...], temperature: float) -> None:
    student, teacher, _ = random
    student.requires_grad_()
    logs = (F.log_softmax(x / temperature, -1) for x in (student, teacher))
    expected = F.kl_div(*logs, log_target=True, reduction="none").sum(-1) * temperature**2
    expected.sum().backward()
    each, gradient = divergences(student.detach(), teacher, temperature, True)
    assert torch.allclose(each, expected.detach(), rtol=1e-5, atol=1e-6)
    assert gradient is not None and student.grad is not None
    assert float((gradient - student.grad).abs().max()) <= 1e-6
    assert bool((each > 0).all()) and divergences(student.detach(), teacher, temperature, False)[1] is None


@pytest.mark.parametrize("temperature", [1.0, 2.0, 0.3])
def test_between_equals_it_and_its_gradient_are_zero(random: tuple[Tensor, ...], temperature: float) -> None:
    each, gradient = divergences(random[0], random[0].clone(), temperature, True)
    assert gradient is not None and not each.any() and not gradient.any()


def test_the_swap(random: tuple[Tensor, ...]) -> None:
    _, logits, labels = random
    at = labels[:, None]
    found = swapped(logits, labels)
    assert torch.equal(found.argmax(-1), labels)
    assert torch.equal(found.sort(-1).values, logits.sort(-1).values)
    entropy = [-(F.softmax(x.double(), -1) * F.log_softmax(x.double(), -1)).sum(-1) for x in (logits, found)]
    assert float((entropy[0] - entropy[1]).abs().max()) <= 1e-12
    right = logits.argmax(-1) == labels
    assert torch.equal(found[right], logits[right]) and torch.equal(swapped(logits, logits.argmax(-1)), logits)
    top = logits.argmax(-1, keepdim=True)
    back = found.scatter(1, top, found.gather(1, at)).scatter(1, at, found.gather(1, top))
    assert torch.equal(back, logits), "the exchange of the two places is its own inverse"
    assert torch.equal(swapped(found, labels), found)


def test_the_swap_of_a_tie() -> None:
    logits = torch.tensor([[3.0, 3.0, 1.0]])
    assert swapped(logits, torch.tensor([1])).tolist() == [[3, 3, 1]]
    assert swapped(logits, torch.tensor([2])).tolist() == [[1, 3, 3]]


def prepared(family: str = "llama", moved: bool = True) -> tuple[Any, Forward, Teacher, Batch, Any]:
    model = model_of(family)
    trained = dict(model.named_parameters())
    forward, teacher = teacher_of(model, trained)
    if moved:
        move(trained)
    held = batch_of(model)
    replay = torch.tensor([[True], [False]]).expand(held.ids.shape)
    batch = Batch(held.ids, held.positions, held.labels, held.lengths, replay)
    arranged, arguments = attention.arranged(batch, forward.mode)
    return model, forward, teacher, arranged, arguments


@pytest.mark.parametrize(("objective", "options"), [o for o in OBJECTIVES if o[0] is not logit_swap])
@pytest.mark.parametrize("family", ["llama", "gemma2"])  # gemma2: its logits are not its head's output
def test_a_teacher_that_is_the_student_leaves_every_bit(objective: Any, options: Any, family: str) -> None:
    """But for logit_swap, whose target says the label."""
    model, forward, teacher, batch, arguments = prepared(family, moved=False)
    found = []
    for weight in (1e6, 0.0):
        model.zero_grad()
        if weight or forward.head is not None:
            loss = objective(forward, batch, arguments, teacher, weight=weight, **options)
        else:  # the logits are there: the loss by chunks is that by torch, but for rounding
            loss = forward.token_loss(arguments, linear_loss.CrossEntropy(batch.labels.reshape(-1)))
            loss = forward.nats(batch, arguments) if objective is hidden_distill else loss
        loss.backward()
        found.append([loss.detach(), *(p.grad for p in model.parameters())])
    assert all(torch.equal(a, b) for a, b in zip(*found, strict=True))


@pytest.mark.parametrize(("objective", "options"), OBJECTIVES)
@pytest.mark.parametrize("family", ["llama", "gemma2"])
@pytest.mark.parametrize("chunk", [1 << 22, 2500])  # 4 tokens of 512 logits
def test_they_are_what_autograd_makes_of_whole_logits(
    objective: Any, options: Any, family: str, chunk: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(linear_loss, "CHUNK_ELEMENTS", {"cpu": chunk})
    model, forward, teacher, batch, arguments = prepared(family)
    second = copy.deepcopy(model)
    second.load_state_dict({**second.state_dict(), **teacher.weights})
    loss = objective(forward, batch, arguments, teacher, weight=0.7, **options)
    loss.backward()
    mine = [loss.detach(), *(p.grad.clone() for p in model.parameters())]
    model.zero_grad()
    vars(second.get_output_embeddings()).pop("forward", None)
    expected = reference(objective, options, model, second, batch, arguments)
    expected.backward()
    for a, b in zip(mine, [expected.detach(), *(p.grad for p in model.parameters())], strict=True):
        assert float((a - b).abs().max()) <= 2e-5 * max(1.0, float(b.abs().max()))


def reference(objective: Any, options: Any, model: Any, second: Any, batch: Batch, arguments: Any) -> Tensor:
    """Plainly, over whole logits and by autograd."""
    output = model(**arguments, use_cache=False, output_hidden_states=True)
    with torch.no_grad():
        known = second(**arguments, use_cache=False, output_hidden_states=True)
    counts = batch.labels != -100
    nats = nats_of(output.logits, batch.labels)
    if objective is hidden_distill:
        moved = output.hidden_states[-1] - known.hidden_states[-1]
        if options.get("of") == "tokens":
            return nats + 0.7 * moved[counts].square().sum()
        total, at = nats, 0
        for length in batch.lengths:
            part, some = moved.reshape(-1, moved.shape[-1])[at : at + length], counts.reshape(-1)[at : at + length]
            if some.any():
                vector = part[some][-1] if options.get("of") == "last" else part[some].mean(0)
                total = total + 0.7 * int(some.sum()) * vector.square().sum()
            at += length
        return total
    temperature = options.get("temperature", 1.0 if objective is logit_swap else 2.0)
    teacher = known.logits
    if objective is logit_swap:
        flat = swapped(teacher.reshape(-1, 512), batch.labels.reshape(-1).clamp(min=0))
        teacher = flat.reshape(teacher.shape)
    if objective is kl_reference:
        assert batch.replay is not None and 0 < int(batch.replay.sum()) < batch.replay.numel()
        counts = counts & batch.replay
    logs = (F.log_softmax(x / temperature, -1) for x in (output.logits, teacher))
    kl = F.kl_div(*logs, log_target=True, reduction="none").sum(-1)
    return nats + 0.7 * temperature**2 * kl[counts].sum()


def test_replay_that_only_holds_the_model() -> None:
    _, forward, teacher, batch, arguments = prepared()
    assert batch.replay is not None
    with_nats, without = (
        kl_reference(forward, batch, arguments, teacher, learn_replay=learn).detach() for learn in (True, False)
    )
    replayed = nats_of(forward.output(arguments).logits, batch.labels.masked_fill(~batch.replay, -100)).detach()
    assert float(with_nats - without) == pytest.approx(float(replayed), rel=1e-5)


@pytest.mark.parametrize("mode", ["mask", "segments", "rows"])
def test_replay_is_known_in_every_arrangement(mode: Any) -> None:
    held = batch_of(model_of("llama"))
    batch = Batch(
        held.ids,
        held.positions,
        held.labels,
        held.lengths,
        torch.tensor([[True], [False]]).expand(2, held.ids.shape[1]),
    )
    arranged, _ = attention.arranged(batch, mode)
    assert arranged.replay is not None and arranged.replay.shape == arranged.labels.shape
    counts = arranged.labels != -100
    assert arranged.replay[counts].tolist() == [True] * 12 + [False] * 15
    assert arranged.labels[counts & arranged.replay].tolist() == held.labels[0, 3:].tolist()


def test_a_micro_batch_without_replay_runs_no_teacher() -> None:
    _, forward, teacher, batch, arguments = prepared()
    plain = Batch(
        batch.ids, batch.positions, batch.labels, batch.lengths, torch.zeros_like(batch.ids, dtype=torch.bool)
    )

    def fail(*_: Any) -> Any:
        raise AssertionError("the teacher was asked")

    teacher.rows = fail  # type: ignore[method-assign]
    loss = kl_reference(forward, plain, arguments, teacher)
    assert torch.equal(loss, forward.nats(plain, arguments))


def test_half_precision_between_equals() -> None:
    _, forward, teacher, batch, arguments = prepared(moved=False)
    with torch.autocast("cpu", torch.bfloat16):
        losses = [distill(forward, batch, arguments, teacher, weight=w).detach() for w in (1e6, 0.0)]
    assert torch.equal(*losses)

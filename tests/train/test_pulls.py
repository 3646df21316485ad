"""What holds a model at its start: Fisher diagonal, penalties, closed steps, the teacher that comes along."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from surgeon.data.pack import IGNORED, Packed
from surgeon.data.source import parse_corpus
from surgeon.data.tokens import tokenise
from surgeon.errors import SurgeonError, UsageError
from surgeon.loading import load_model, load_tokenizer
from surgeon.train import fisher as fisher_module
from surgeon.train import probes
from surgeon.train.fisher import fisher
from surgeon.train.hook import undivided
from surgeon.train.job import prepare
from surgeon.train.loop import Loop
from surgeon.train.objectives.compatible_teacher import CompatibleTeacher
from surgeon.train.proximal import Proximal
from surgeon.train.regularizers.ewc import ewc
from surgeon.train.regularizers.l2_to_base import l2_to_base
from surgeon.train.settings import CptSettings


@pytest.fixture
def loop(tiny: Callable[..., Path], corpus: Path, tmp_path: Path) -> Callable[..., Loop]:
    def of(**words: Any) -> Loop:
        model = words.pop("model", None) or tiny("llama", attention_dropout=words.pop("dropout", 0.0))
        given = {"tokens": 256, "seq_len": 16, "batch_tokens": 64, "micro_batch": 2, "lr": 1e-2, "device": "cpu"}
        out = str(tmp_path / "out")
        return Loop(prepare(CptSettings(model=str(model), out=out, data=[str(corpus)], **(given | words))))

    return of


@pytest.fixture
def tensors() -> tuple[Tensor, Tensor, Tensor]:
    torch.manual_seed(0)
    return torch.randn(50, 7), torch.randn(50, 7), torch.rand(50, 7) * 10


def test_the_fisher_diagonal_is_that_of_plain_backward_passes(loop: Callable[..., Loop], corpus: Path) -> None:
    """Through transformers' own loss, one window at a time; of a model with dropout, which a probe does not have."""
    one = loop(dropout=0.5)
    found = fisher(one.run_view, str(corpus), 100)
    settings = one.job.settings
    model = load_model(Path(settings.model), device=torch.device("cpu"), dtype=torch.float32)
    text = tokenise(parse_corpus(str(corpus)), load_tokenizer(Path(settings.model)))
    packed = Packed(text, 16, 0, probes.STREAM, "split")
    sums = {n: torch.zeros_like(p, requires_grad=False) for n, p in model.named_parameters()}
    labels = 0
    for number in range(7):
        window = packed.window(number)
        model.zero_grad()
        total, at = torch.zeros(()), 0
        for length in window.lengths:
            ids = torch.from_numpy(window.ids[None, at : at + length].astype(np.int64))
            target = torch.from_numpy(window.labels[at : at + length])
            logits = model(input_ids=ids, use_cache=False).logits[0]
            total = total + torch.nn.functional.cross_entropy(logits, target, ignore_index=IGNORED, reduction="sum")
            labels, at = labels + int((target != IGNORED).sum()), at + length
        total.backward()
        for name, parameter in model.named_parameters():
            sums[name] += parameter.grad.square()
    assert found.keys() == sums.keys() and 90 < labels <= 112
    for name, expected in sums.items():
        assert torch.allclose(found[name], expected / labels, rtol=1e-3, atol=1e-9), name
        assert bool((found[name] >= 0).all())
    assert all(torch.equal(found[n], again) for n, again in fisher(one.run_view, str(corpus), 100).items())


def test_a_probe_shorter_than_asked_is_read_once(loop: Callable[..., Loop], corpus: Path) -> None:
    view = loop().run_view
    held = fisher_module.probe_windows(view, str(corpus), 10**6)
    text = tokenise(parse_corpus(str(corpus)), view.tokenizer)
    assert len(held) == -(-text.num_tokens // 16)
    assert len(fisher_module.probe_windows(view, str(corpus), 33)) == 3


def test_a_probe_of_other_tokens_is_refused(
    loop: Callable[..., Loop], tiny: Callable[..., Path], corpus: Path
) -> None:
    view = loop().run_view
    view.model.resize_token_embeddings(20)
    with pytest.raises(SurgeonError, match="no row for"):
        fisher(view, str(corpus), 10)


def test_at_the_start_a_penalty_and_its_gradient_are_zero(tensors: tuple[Tensor, ...]) -> None:
    own, _, weights = tensors
    own.requires_grad_()
    for penalty in (
        l2_to_base({"a": own}, {"a": own.detach().clone()}, strength=1e9),
        ewc({"a": own}, {"a": own.detach().clone()}, {"a": weights}, probe="-", strength=1e9),
    ):
        own.grad = None
        penalty.backward()
        assert float(penalty.detach()) == 0 and own.grad is not None and not own.grad.any()


def test_ewc_of_equal_weights_is_l2(tensors: tuple[Tensor, ...]) -> None:
    own, start, _ = tensors
    own.requires_grad_()
    found = []
    for penalty in (
        l2_to_base({"a": own}, {"a": start}, strength=0.3),
        ewc({"a": own}, {"a": start}, {"a": torch.ones_like(own)}, probe="-", strength=0.3),
    ):
        own.grad = None
        penalty.backward()
        assert own.grad is not None
        found.append((penalty.detach(), own.grad.clone()))
    assert torch.equal(found[0][0], found[1][0]) and torch.equal(found[0][1], found[1][1])
    assert torch.allclose(found[0][1], 0.3 * (own.detach() - start), rtol=1e-6)


def test_no_strength_has_no_graph(tensors: tuple[Tensor, ...]) -> None:
    own = tensors[0].requires_grad_()
    assert not l2_to_base({"a": own}, {"a": own}, strength=0.0).requires_grad
    assert not ewc({"a": own}, {"a": own}, {}, probe="-", strength=0.0).requires_grad


class Fake:
    """A run of one tensor."""

    def __init__(self, own: Tensor, start: Tensor, lr: float) -> None:
        self.parameter = torch.nn.Parameter(own.clone())
        self.optimizer = torch.optim.SGD([self.parameter], lr=lr)
        self._start = start

    def anchors(self) -> dict[str, Tensor]:
        return {"a": self._start}

    def name_of(self, parameter: Tensor) -> str:
        assert parameter is self.parameter
        return "a"


def stepped(own: Tensor, start: Tensor, lr: float, strength: float, weights: Tensor | None = None) -> Tensor:
    run: Any = Fake(own, start, lr)
    Proximal(run, strength, None if weights is None else {"a": weights}).after_update(1)
    return run.parameter.detach()


@pytest.mark.parametrize("strength", [1e-3, 0.5, 40.0])
@pytest.mark.parametrize("weighted", [False, True])
def test_the_closed_form(tensors: tuple[Tensor, ...], strength: float, weighted: bool) -> None:
    own, start, weights = tensors
    c = 0.1 * strength * (weights.double() if weighted else torch.ones(1, dtype=torch.float64))
    expected = (own.double() + c * start.double()) / (1 + c)
    found = stepped(own, start, 0.1, strength, weights if weighted else None)
    assert float((found.double() - expected).abs().max()) <= 5e-7


def test_the_closed_form_is_the_least_of_its_problem(tensors: tuple[Tensor, ...]) -> None:
    """The paper's penalty by the proximal point: theta - lr * gradient(x) of the penalty at the new point itself."""
    own, start, weights = tensors
    found = stepped(own, start, 0.1, 2.0, weights).double()
    assert float((found - own.double() + 0.1 * 2.0 * weights.double() * (found - start.double())).abs().max()) <= 2e-5


def test_both_ends_to_the_bit(tensors: tuple[Tensor, ...]) -> None:
    own, start, weights = tensors
    own[0, 0], start[0, 0] = -0.0, 1.0
    assert bits(stepped(own, start, 0.1, 0.0)) == bits(own)
    assert bits(stepped(own, start, 0.0, 3.0)) == bits(own), "a rate of zero"
    assert bits(stepped(own, start, 0.1, 1e300)) == bits(start)
    assert bits(stepped(own, start, 0.1, 1e300, weights)) == bits(start)
    weights[:25] = 0
    found = stepped(own, start, 0.1, 1e300, weights)
    assert bits(found[:25]) == bits(own[:25]) and bits(found[25:]) == bits(start[25:]), "what does not matter is free"


def bits(tensor: Tensor) -> list[int]:
    return tensor.view(torch.int32).flatten().tolist()


def test_the_teacher_that_comes_along_goes_to_the_middle(loop: Callable[..., Loop]) -> None:
    one = loop(objective="compatible_teacher:m=0.9")
    teacher = one.forward.extra["teacher"]
    assert isinstance(teacher, CompatibleTeacher) and teacher in one.hooks
    start = {n: t.clone() for n, t in teacher.weights.items()}
    for step in range(1, 4):
        teacher.before_step(step)
    assert all(torch.equal(t, start[n]) for n, t in teacher.weights.items()), (
        "where all are equal, none moves by a bit"
    )
    with torch.no_grad():
        for parameter in one.parameters.values():
            parameter += 0.1
    for step in range(1, 11):  # nine times: not before the first step
        teacher.before_step(step)
    for name, found in teacher.weights.items():
        middle = (one.parameters[name].detach() + start[name]) / 2
        assert torch.allclose(found, 0.9**9 * start[name] + (1 - 0.9**9) * middle, atol=1e-6)
    for step in range(2, 400):
        teacher.before_step(step)
    for name, found in teacher.weights.items():
        assert torch.allclose(found, (one.parameters[name].detach() + start[name]) / 2, atol=1e-6)


def test_anchors_are_one_copy_and_of_the_start(loop: Callable[..., Loop], corpus: Path) -> None:
    words = {"objective": "distill", "regularize": ["l2_to_base"], "meta": ["proximal_l2"]}
    one = loop(**words)
    teacher, hook = one.forward.extra["teacher"], one.hooks[0]
    assert isinstance(hook, Proximal)
    for name, anchor in one.anchors().items():
        assert teacher.weights[name] is anchor and hook._anchors[name] is anchor
        assert torch.equal(anchor, one.parameters[name]) and anchor is not one.parameters[name]
    with pytest.raises(RuntimeError, match="have moved"):
        loop().anchors()


def test_what_methods_keep_is_in_the_footprint(loop: Callable[..., Loop], corpus: Path) -> None:
    from surgeon.train.footprint import memory_bytes

    one = loop(train=r"layers\.2\.")
    size = 4 * sum(p.numel() for p in one.parameters.values())
    assert "kept" not in memory_bytes(one.job)
    for words, copies in (
        ({"objective": "distill", "regularize": ["l2_to_base"]}, 1),
        ({"objective": "compatible_teacher"}, 2),
        ({"objective": "distill", "meta": [f"proximal_ewc:probe={corpus}"]}, 2),
    ):
        assert memory_bytes(loop(train=r"layers\.2\.", **words).job)["kept"] == copies * size


def test_a_divided_model_is_refused() -> None:
    import torch.distributed as dist
    from torch.distributed.device_mesh import init_device_mesh
    from torch.distributed.tensor import distribute_tensor

    dist.init_process_group("gloo", store=dist.HashStore(), rank=0, world_size=1)
    try:
        run: Any = SimpleNamespace(parameters={"a": distribute_tensor(torch.ones(4), init_device_mesh("cpu", (1,)))})
        with pytest.raises(UsageError, match="a designer needs the whole model in one process"):
            undivided(run, "a designer")
    finally:
        dist.destroy_process_group()

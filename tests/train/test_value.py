"""Values of texts for other texts, and targets that are designed by them."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F  # noqa: N812
from method_runs import check_new_rows, check_resume, cpt, same, weights

from surgeon.checkpoint.sidecars import SURGEON_DIR
from surgeon.data.pack import IGNORED
from surgeon.errors import SurgeonError
from surgeon.train import attention
from surgeon.train.batch import collate
from surgeon.train.fisher import probe_windows
from surgeon.train.job import prepare
from surgeon.train.loop import Loop
from surgeon.train.settings import CptSettings
from surgeon.train.target_designer import Targets, read
from surgeon.train.value import mean_gradient, value

SMALL = "k=8,layers=1,width=16,heads=2,every=2,rate=1e-2"


@pytest.fixture
def feedback(tmp_path: Path) -> Path:
    path = tmp_path / "feedback.jsonl"
    texts = ("The dog saw a red ball in the park.", "Lily gave the bird some food. It was happy.")
    path.write_text("".join(json.dumps({"text": t}) + "\n" for t in texts))
    return path


@pytest.fixture
def loop(tiny: Callable[..., Path], corpus: Path, tmp_path: Path) -> Callable[..., Loop]:
    def of(**words: Any) -> Loop:
        given = {"tokens": 256, "seq_len": 16, "batch_tokens": 64, "micro_batch": 2, "lr": 1e-2, "device": "cpu"}
        model = words.pop("model", None) or tiny("llama")
        out = str(tmp_path / "out")
        return Loop(prepare(CptSettings(model=str(model), out=out, data=[str(corpus)], **(given | words))))

    return of


def records(out: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in next((out / SURGEON_DIR).glob("metrics*")).read_text().splitlines()]


def test_a_mean_gradient_is_that_of_the_loop(loop: Callable[..., Loop]) -> None:
    one = loop()
    windows = one.windows(0)
    found = mean_gradient(one.run_view, windows)
    assert all(p.grad is None for p in one.parameters.values())
    one.run_view.loss(windows).backward()
    for name, parameter in one.parameters.items():
        assert parameter.grad is not None
        assert float((found[name] - parameter.grad).norm()) <= 1e-5 * float(parameter.grad.norm())


def exact_loss(one: Loop, windows: Any) -> float:
    """Nats a label of a model in float64, as the formula says."""
    logits, labels = attention.logits(one.job.model, collate(windows, torch.device("cpu")), "rows")
    assert logits.dtype == torch.float64
    return float(F.cross_entropy(logits.reshape(-1, logits.shape[-1]), labels.reshape(-1), ignore_index=IGNORED))


def test_the_value_is_what_a_small_step_gives(
    loop: Callable[..., Loop], tiny: Callable[..., Path], feedback: Path
) -> None:
    """Steps of plain SGD on three batches: the drop of the other text's loss, a central difference in float64."""
    one = loop(model=tiny("gpt2"))  # llama's norms are in float32 whatever the model is
    one.job.model.double()
    view, wanted = one.run_view, probe_windows(one.run_view, str(feedback), 10**6)
    down = mean_gradient(view, wanted)
    for step in range(3):
        pre = mean_gradient(view, one.windows(step))
        drop, rate = [], 1e-4
        for sign in (1, -1):
            with torch.no_grad():
                for name, parameter in one.parameters.items():
                    parameter.sub_(sign * rate * pre[name])
                drop.append(exact_loss(one, wanted))
                for name, parameter in one.parameters.items():
                    parameter.add_(sign * rate * pre[name])
        realised = (drop[1] - drop[0]) / (2 * rate)
        assert value(down, pre).value == pytest.approx(realised, rel=1e-4)
    own = value(down, down)
    assert own.cosine == pytest.approx(1.0) and own.value > 0


def test_a_probe_changes_nothing(tiny: Callable[..., Path], corpus: Path, feedback: Path, tmp_path: Path) -> None:
    model = tiny("llama", attention_dropout=0.1)
    plain = cpt(model, tmp_path / "plain", corpus)
    probed = cpt(model, tmp_path / "probed", corpus, meta=[f"value_probe:feedback={feedback},every=2,blocks=1"])
    sourced = cpt(model, tmp_path / "s", corpus, meta=[f"value_probe:feedback={feedback},source={feedback},every=4"])
    assert same(plain, probed) and same(plain, sourced)
    assert [r["step"] for r in records(probed) if "value" in r] == [1, 3, 5]
    cosines = [r["value_cosine"] for r in records(sourced) if "value" in r]
    assert cosines == pytest.approx([1.0, 1.0]), "a text is worth most for itself"
    again = check_resume(
        model, tmp_path, corpus, meta=[f"value_probe:feedback={feedback},every=2"]
    )  # fmt: skip
    assert same(plain, again)


def targets_of(one: Loop) -> Targets:
    found = one.forward.extra["designer"]
    assert isinstance(found, Targets)
    return found


def stirred(one: Loop) -> Targets:
    """A designer whose zero parts are not zero."""
    found = targets_of(one)
    assert found.designer is not None
    torch.manual_seed(1)
    for part in (found.designer.choose, found.designer.gate):
        torch.nn.init.normal_(part.weight, std=0.5)
    return found


def test_targets_are_on_the_simplex_and_hold_the_label(loop: Callable[..., Loop], feedback: Path) -> None:
    one = loop(objective=f"designed_targets:feedback={feedback},{SMALL}")
    windows = one.windows(0)
    batch, arguments = attention.arranged(collate(windows, torch.device("cpu")), one.forward.mode)
    hidden, found = read(one.forward, batch, arguments, 8)
    labels = batch.labels.reshape(-1)
    assert torch.equal(found.at, (labels != IGNORED).nonzero()[:, 0])
    assert torch.equal(found.ids[:, 0], labels[found.at])
    assert all(len(set(row.tolist())) == 8 for row in found.ids)
    q = targets_of(one).of(hidden, batch, found)
    start = 0.25 * found.logs.softmax(-1)
    start[:, 0] += 0.75
    assert torch.allclose(q, start, atol=1e-6), "the learner's own at the start, half of alpha"
    q = stirred(one).of(hidden, batch, found).detach()
    assert float((q.sum(1) - 1).abs().max()) < 1e-6 and bool((q >= 0).all()) and bool((q[:, 0] >= 0.5 - 1e-6).all())
    assert not torch.allclose(q, start, atol=1e-3)
    for mode in ("rows", "segments"):  # documents apart in every arrangement
        other, _ = attention.arranged(collate(windows, torch.device("cpu")), mode)  # type: ignore[arg-type]
        flat = hidden.reshape(-1, hidden.shape[-1])
        places = (other.labels.reshape(-1) != IGNORED).nonzero()[:, 0]
        placed = _moved(flat, batch, other)
        same_found = type(found)(places, found.ids, found.logs)
        again = targets_of(one).of(placed.reshape(*other.labels.shape, -1), other, same_found)
        assert torch.allclose(again, q, atol=1e-5), mode


def test_the_uniform_control_is_where_a_designer_starts(loop: Callable[..., Loop]) -> None:
    """Half of `most` spread evenly over the k candidates, the label among them."""
    one = loop(objective="designed_targets:control=uniform,k=8,most=0.5")
    batch, arguments = attention.arranged(collate(one.windows(0), torch.device("cpu")), one.forward.mode)
    hidden, found = read(one.forward, batch, arguments, 8)
    q = targets_of(one).of(hidden, batch, found)
    expected = torch.full((len(found.at), 8), 0.25 / 8)
    expected[:, 0] += 0.75
    torch.testing.assert_close(q, expected, rtol=0, atol=1e-7)


def _moved(flat: torch.Tensor, packed: Any, other: Any) -> torch.Tensor:
    """Tokens of packed rows in the rows of another arrangement."""
    if other.labels.numel() == len(flat):
        return flat
    found = flat.new_zeros(*other.labels.shape, flat.shape[1])
    for row, part in enumerate(flat.split(list(packed.lengths))):
        found[row, : len(part)] = part
    return found


def test_the_value_and_the_designers_gradient_are_those_of_the_definition(
    loop: Callable[..., Loop], feedback: Path
) -> None:
    """V = g_down . g_pre(q), with g_pre and then the gradient in the designer by automatic differentiation of the
    definition: a mixed second derivative."""
    one = loop(objective=f"designed_targets:feedback={feedback},{SMALL}")
    found, view = stirred(one), one.run_view
    assert found.designer is not None
    windows = one.windows(0)
    down = found._down(0)
    assert sum(float(g.square().sum()) for g in down.values()) == pytest.approx(1.0, rel=1e-5)
    hidden, batch, choices, worth = found.worth(windows, down)
    ours = (found.of(hidden, batch, choices) * worth).sum()
    ours_gradient = torch.autograd.grad(ours, list(found.designer.parameters()), allow_unused=True)
    from torch.nn.attention import SDPBackend, sdpa_kernel

    one.job.model.eval()
    with sdpa_kernel(SDPBackend.MATH):
        arranged, arguments = attention.arranged(collate(windows, torch.device("cpu")), one.forward.mode)
        hidden, choices = read(one.forward, arranged, arguments, 8)
        q = found.of(hidden, arranged, choices)
        loss = -(q * choices.logs).sum() / len(choices.at)
        names = list(down)
        pre = torch.autograd.grad(loss, [view.parameters[n] for n in names], create_graph=True)
        theirs = sum((g * down[n]).sum() for n, g in zip(names, pre, strict=True))
        gradient = torch.autograd.grad(theirs, list(found.designer.parameters()), allow_unused=True)
    assert float(ours.detach()) == pytest.approx(float(theirs.detach()), rel=1e-4)  # type: ignore[union-attr]
    for a, b in zip(ours_gradient, gradient, strict=True):
        assert a is not None and b is not None
        assert float((a - b).norm()) <= 1e-3 * float(b.norm()) + 1e-9


def test_the_loss_is_the_cross_entropy_to_the_targets(loop: Callable[..., Loop], feedback: Path) -> None:
    one = loop(objective=f"designed_targets:feedback={feedback},{SMALL}")
    found, windows = stirred(one), one.windows(0)
    batch, arguments = attention.arranged(collate(windows, torch.device("cpu")), one.forward.mode)
    with torch.no_grad():
        logits = one.forward.output(arguments).logits.reshape(-1, 512)
        hidden, choices = read(one.forward, batch, arguments, 8)
        dense = torch.zeros(len(choices.at), 512).scatter(1, choices.ids, found.of(hidden, batch, choices))
        expected = F.cross_entropy(logits[choices.at], dense)
        assert float(one.run_view.loss(windows)) == pytest.approx(float(expected), rel=1e-6)


def test_the_designer_learns_to_raise_the_value(loop: Callable[..., Loop], feedback: Path) -> None:
    """On one batch and one g_down: V rises from step to step."""
    one = loop(objective=f"designed_targets:feedback={feedback},{SMALL}")
    found = targets_of(one)
    found._feedback.window = lambda number, plain=found._feedback.window: plain(number % 4)  # type: ignore
    values = []
    for _ in range(20):
        found.before_step(1)
        values.append(found.metrics()["design_value"])
    assert values[-1] > values[10] > values[0]


def test_the_learner_sees_feedback_through_the_targets_alone(
    tiny: Callable[..., Path], corpus: Path, feedback: Path, tmp_path: Path
) -> None:
    """A designer that does not move: other feedback, the same bytes."""
    model = tiny("llama", attention_dropout=0.1)
    still = SMALL.replace("rate=1e-2", "rate=0")
    outs = [
        cpt(model, tmp_path / str(n), corpus, objective=f"designed_targets:feedback={path},{words}")
        for n, (path, words) in enumerate(((feedback, still), (corpus, still), (feedback, SMALL), (corpus, SMALL)))
    ]
    assert same(outs[0], outs[1]) and not same(outs[2], outs[3]) and not same(outs[0], outs[2])


@pytest.mark.parametrize("train", ["full", r"layers\.2\."])
@pytest.mark.parametrize("control", ["none", "uniform", "random"])
def test_runs(
    control: str, train: str, tiny: Callable[..., Path], corpus: Path, feedback: Path, tmp_path: Path
) -> None:
    model = tiny("llama", attention_dropout=0.1 if train == "full" else 0.0)
    given = f"feedback={feedback}," if control == "none" else ""
    words = {"train": train, "micro_batch": 2, "meta": []}
    objective = f"designed_targets:{given}control={control},{SMALL}"
    whole = check_resume(model, tmp_path, corpus, objective=objective, **words)
    plain, none = (
        cpt(model, tmp_path / n, corpus, objective=o, **words)
        for n, o in (("plain", "next_token"), ("none", "designed_targets:most=0"))
    )
    assert same(plain, none) and not same(plain, whole)
    before, after = weights(model), weights(whole)
    assert all(bool(t.isfinite().all()) for t in after.values())
    if train != "full":
        assert {n for n in before if not torch.equal(before[n], after[n])} <= {n for n in before if "layers.2." in n}


def test_adapters(adapted: str, corpus: Path, feedback: Path, tmp_path: Path) -> None:
    words = {"objective": f"designed_targets:feedback={feedback},{SMALL}", "train": "adapter"}
    out, again = (cpt(adapted, tmp_path / n, corpus, **words) for n in ("out", "again"))
    assert same(out, again) and not same(out, Path(adapted.split("+")[1]))
    cpt(adapted, tmp_path / "probed", corpus, train="adapter", meta=[f"value_probe:feedback={feedback}"])


def test_refusals(tiny: Callable[..., Path], corpus: Path, feedback: Path, tmp_path: Path) -> None:
    model = tiny("llama")
    for objective, train, problem in (
        ("designed_targets", "full", "needs feedback"),
        (f"designed_targets:control=random,feedback={feedback}", "full", "no use for feedback"),
        (f"designed_targets:feedback={feedback},k=513", "full", "no candidates"),
        (f"designed_targets:feedback={feedback},width=10", "full", "do not share"),
        (f"designed_targets:feedback={feedback},blocks=1", r"layers\.0\.", "none of them is trained"),
        (f"designed_targets:feedback={feedback},most=1.5", "full", "not valid"),
    ):
        with pytest.raises(SurgeonError, match=problem):
            cpt(model, tmp_path / "out", corpus, objective=objective, train=train)
    with pytest.raises(SurgeonError, match="no such corpus"):
        cpt(model, tmp_path / "out", corpus, meta=["value_probe:feedback=nowhere.jsonl"])
    assert not (tmp_path / "out").exists()


def test_new_rows_alone_have_no_blocks_to_compare(tiny: Callable[..., Path], corpus: Path, tmp_path: Path) -> None:
    with pytest.raises(SurgeonError, match="none of them is trained"):
        check_new_rows(tiny("llama"), tmp_path, corpus, objective=f"designed_targets:control=random,{SMALL}")

"""Importances are those taken by hand; a tensor's rate is the run's times its multiplier, and nothing else moves."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from surgeon.checkpoint.index import Checkpoint
from surgeon.checkpoint.reader import read, to_bytes
from surgeon.errors import SurgeonError, UsageError
from surgeon.train.hook import Hook
from surgeon.train.job import prepare
from surgeon.train.loop import Loop
from surgeon.train.meta.decoupled import code_weights, paper_weights
from surgeon.train.run import run_cpt
from surgeon.train.settings import CptSettings

Tiny = Callable[..., Path]


@pytest.fixture
def general(tmp_path: Path) -> Path:
    path = tmp_path / "general.jsonl"
    texts = ("Water is wet, and the sun is hot.", "A king had three sons who could not read.", "Birds sing at dawn.")
    path.write_text("".join(json.dumps({"text": t}) + "\n" for t in texts))
    return path


def settings(model: Path, corpus: Path, **changes: Any) -> CptSettings:
    options: dict[str, Any] = {
        "out": str(corpus.parent / "out"), "data": [str(corpus)], "tokens": 384, "seq_len": 16, "batch_tokens": 64,
        "lr": 1e-2, "device": "cpu", "schedule": "constant",
    }  # fmt: skip
    return CptSettings(model=str(model), **options | changes)


def method(general: Path, **options: Any) -> list[str]:
    given = {"every": 1, "batches": 2, "rows": 3} | options
    return [f"decoupled:probe={general}" + "".join(f",{k}={v}" for k, v in given.items())]


def by_hand(loop: Loop, rule: str) -> dict[str, float]:
    """Means of |theta| mean |g| over two batches, or of theta mean g, with plain autograd in float64."""
    hook: Any = loop.hooks[0]
    found = {}
    grads = []
    for windows in hook._batches:
        loop.run_view.loss(windows).backward()
        grads.append({n: p.grad.double() for n, p in loop.parameters.items() if p.grad is not None})
        loop.optimizer.zero_grad()
    for name, p in loop.parameters.items():
        theta = p.detach().double()
        if rule == "code":
            found[name] = float((theta.abs() * (grads[0][name].abs() + grads[1][name].abs()) / 2).mean())
        else:
            found[name] = float((theta * (grads[0][name] + grads[1][name]) / 2).mean())
    return found


@pytest.mark.parametrize("rule", ["code", "paper"])
def test_rates_are_those_of_the_importances(tiny: Tiny, corpus: Path, general: Path, rule: str) -> None:
    loop = Loop(prepare(settings(tiny("llama"), corpus, meta=method(general, rule=rule))))
    loop._step(1, loop.job.data.mixture.batch(0))
    importances = by_hand(loop, rule)
    most, least = max(importances.values()), min(importances.values())
    loop._step(2, loop.job.data.mixture.batch(1))
    rates = rates_of(loop)
    assert rates.keys() == importances.keys()
    for name, value in importances.items():
        weight = 2 * (most - value) / (most - least) if rule == "code" else 2 * (1 - value)
        assert rates[name] == pytest.approx(1e-2 * weight, rel=1e-5, abs=1e-8), name


class Rates(Hook):
    """Rates as they are written down, by name."""

    def __init__(self, loop: Loop, rates: dict[str, float]) -> None:
        self._loop, self._rates = loop, rates

    def before_update(self, step: int) -> None:
        for group in self._loop.optimizer.param_groups:
            group["lr"] = self._rates[self._loop.run_view.name_of(group["params"][0])]


def rates_of(loop: Loop) -> dict[str, float]:
    return {loop.run_view.name_of(g["params"][0]): g["lr"] for g in loop.optimizer.param_groups}


def test_the_most_important_tensor_stands_still_and_the_least_has_twice_the_rate(
    tiny: Tiny, corpus: Path, general: Path
) -> None:
    """The step is that of an optimizer which was given these rates; weight decay goes with the rate."""
    loop = Loop(prepare(settings(tiny("llama"), corpus, meta=method(general), weight_decay=0.5)))
    other = Loop(prepare(settings(tiny("llama"), corpus, meta=method(general, strength=0), weight_decay=0.5)))
    for each in (loop, other):
        each._step(1, each.job.data.mixture.batch(0))
    before = {n: p.detach().clone() for n, p in loop.parameters.items()}
    extra = loop._step(2, loop.job.data.mixture.batch(1)).extra
    rates = rates_of(loop)
    most, least = min(rates, key=rates.__getitem__), max(rates, key=rates.__getitem__)
    assert (rates[most], rates[least]) == (0.0, 2e-2)
    assert (extra["decoupled_min"], extra["decoupled_max"]) == (0.0, 2.0)
    assert [n for n, p in loop.parameters.items() if torch.equal(p.detach(), before[n])] == [most]
    other.hooks.append(Rates(other, rates))
    other._step(2, other.job.data.mixture.batch(1))
    assert all(torch.equal(p.detach(), loop.parameters[n].detach()) for n, p in other.parameters.items())


def test_weights() -> None:
    """2 (max - I) / (max - min), worked by hand; equal importances leave the rates alone."""
    assert code_weights({"a": 3.0, "b": 1.0, "c": 2.5}) == {"a": 0.0, "b": 2.0, "c": 0.5}
    assert code_weights({"a": 0.0, "b": 0.0}) == {"a": 1.0, "b": 1.0}
    assert paper_weights({"a": 0.25, "b": -0.5, "c": 1.0}) == {"a": 1.5, "b": 3.0, "c": 0.0}
    with pytest.raises(SurgeonError, match="above 1"):
        paper_weights({"a": 1.5})


def test_the_mean_is_what_it_says_and_normalize_makes_it_one(tiny: Tiny, corpus: Path, general: Path) -> None:
    found = []
    for normalize in ("none", "mean"):
        loop = Loop(prepare(settings(tiny("llama"), corpus, meta=method(general, normalize=normalize))))
        first = loop._step(1, loop.job.data.mixture.batch(0)).extra
        assert set(first.values()) == {1.0}
        extra = loop._step(2, loop.job.data.mixture.batch(1)).extra
        rates = {name: rate / 1e-2 for name, rate in rates_of(loop).items()}
        sizes = {n: p.numel() for n, p in loop.parameters.items()}
        assert extra["decoupled_mean"] == pytest.approx(sum(rates.values()) / len(rates))
        assert extra["decoupled_mean_by_size"] == pytest.approx(
            sum(rates[n] * sizes[n] for n in rates) / sum(sizes.values())
        )
        found.append(extra["decoupled_mean"])
    assert found[0] != pytest.approx(1.0, abs=0.05) and found[1] == pytest.approx(1.0, abs=1e-12)


def test_new_blocks_that_are_the_identity_start_at_the_runs_rate(
    stories: Path, corpus: Path, general: Path, tmp_path: Path
) -> None:
    """All but the zeroed tensors have a gradient of zero there: an importance that says nothing is not used."""
    from surgeon.expand.plan import ExpandSettings, plan_expand
    from surgeon.ops.execute import execute

    deep = tmp_path / "deep"
    execute(plan_expand(ExpandSettings(model=str(stories), out=deep, at=[2], fill="zero")), deep)
    loop = Loop(prepare(settings(deep, corpus, meta=method(general), train="new-blocks")))
    hook: Any = loop.hooks[0]
    assert set(hook._importances().values()) == {0.0}
    assert set(loop._step(1, loop.job.data.mixture.batch(0)).extra.values()) == {1.0}
    assert all(value > 0 for value in hook._importances().values())
    out = Path(run_cpt(settings(deep, corpus, meta=method(general), train="new-blocks")).out)
    a, b = Checkpoint.open(deep).tensors, Checkpoint.open(out).tensors
    moved = {n for n in a if to_bytes(read(a[n])) != to_bytes(read(b[n]))}
    assert moved == set(loop.parameters)


@pytest.mark.parametrize("options", [{"strength": 0}, {"every": 1000}])
def test_at_strength_0_and_before_the_first_refresh_it_is_the_plain_run(
    tiny: Tiny, corpus: Path, general: Path, tmp_path: Path, options: dict[str, Any]
) -> None:
    """Groups of one tensor, and gradients taken in between: to the byte."""
    model = tiny("llama", "bfloat16", attention_dropout=0.1)
    outputs = []
    for number, meta in enumerate(([], method(general, **options))):
        made = settings(
            model, corpus, meta=meta, out=str(tmp_path / f"o{number}"), group=["mlp:lr=0.5", "embed:weight_decay=0"],
            tokens=384,
        )  # fmt: skip
        outputs.append(Path(run_cpt(made).out))
    plain, other = [(o / "model.safetensors").read_bytes() for o in outputs]
    assert plain == other


def test_the_first_importances_are_those_after_so_many_steps(tiny: Tiny, corpus: Path, general: Path) -> None:
    """The authors' callback measures at the end of every `every`-th step: the step behind it has the new rates."""
    made = settings(tiny("llama"), corpus, meta=method(general, every=2), keep_state=True)
    out = Path(run_cpt(made).out)
    lines = [json.loads(x) for x in next((out / "surgeon").glob("metrics-*.jsonl")).read_text().splitlines()]
    spans = [(x["decoupled_min"], x["decoupled_max"]) for x in lines if "decoupled_min" in x]
    assert len(spans) == 6 and spans[:2] == [(1, 1)] * 2 and spans[2:] == [(0, 2)] * 4
    means = [x["decoupled_mean"] for x in lines if "decoupled_mean" in x]
    assert means[2] == means[3] != means[4] == means[5]


def test_an_optimizer_that_joins_its_groups_is_refused(
    tiny: Tiny, corpus: Path, general: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "joining.py").write_text(
        "import torch\n\n\ndef joined(groups):\n    "
        '"""SGD on one list."""\n    return torch.optim.SGD([p for g in groups for p in g["params"]], lr=0.1)\n'
    )
    monkeypatch.syspath_prepend(tmp_path)
    with pytest.raises(UsageError, match="rates of their own"):
        run_cpt(settings(tiny("llama"), corpus, meta=method(general), optimizer="joining:joined"))
    assert not list(corpus.parent.glob("out*"))


def test_it_needs_a_probe(tiny: Tiny, corpus: Path) -> None:
    with pytest.raises(UsageError, match="needs the option 'probe'"):
        prepare(settings(tiny("llama"), corpus, meta=["decoupled"]))

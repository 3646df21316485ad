"""Reptile takes the float32 masters back, by the formula and to the bit; the next step goes on from there."""

from __future__ import annotations

import json
import os
import signal
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import warm
from resume_runs import OBJECTIVE, PROGRAM

from surgeon.errors import UsageError
from surgeon.train.job import prepare
from surgeon.train.loop import Loop
from surgeon.train.run import run_cpt
from surgeon.train.settings import CptSettings

Tiny = Callable[..., Path]
Weights = dict[str, torch.Tensor]


def loop_of(model: Path, corpus: Path, **changes: Any) -> Loop:
    options: dict[str, Any] = {
        "tokens": 640, "seq_len": 16, "batch_tokens": 64, "lr": 1e-2, "device": "cpu", "schedule": "constant",
    }  # fmt: skip
    out = str(corpus.parent / "out")
    return Loop(prepare(CptSettings(model=str(model), out=out, data=[str(corpus)], **options | changes)))


def after(loop: Loop, steps: int) -> list[Weights]:
    """The trained tensors before the first step and after each of them."""
    for hook in loop.hooks:
        hook.begin(0)
    found = [held(loop)]
    for step in range(1, steps + 1):
        loop._step(step, loop.job.data.mixture.batch(step - 1))
        found.append(held(loop))
    return found


def held(loop: Loop) -> Weights:
    return {name: p.detach().clone() for name, p in loop.parameters.items()}


def equal(one: Weights, other: Weights) -> bool:
    return all(torch.equal(one[n].view(torch.int32), other[n].view(torch.int32)) for n in one)


def test_the_formula_and_that_the_next_step_starts_there(tiny: Tiny, corpus: Path) -> None:
    """Two windows of three steps: written out beside a plain loop that is put back by hand."""
    model = tiny("llama")
    found = after(loop_of(model, corpus, meta=["reptile:every=3,eps=0.25"]), 7)
    plain = loop_of(model, corpus)
    start, expected = held(plain), [held(plain)]
    for step in range(1, 8):
        plain._step(step, plain.job.data.mixture.batch(step - 1))
        if step % 3 == 0:
            for name, parameter in plain.parameters.items():
                parameter.data = torch.lerp(start[name], parameter.data, 0.25)
            start = held(plain)
        expected.append(held(plain))
    for one, other in zip(found, expected, strict=True):
        assert equal(one, other)
    assert not equal(found[3], after(loop_of(model, corpus), 3)[3])


def test_at_eps_0_every_window_ends_where_it_began(tiny: Tiny, corpus: Path) -> None:
    found = after(loop_of(tiny("llama"), corpus, meta=["reptile:every=3,eps=0"]), 6)
    assert equal(found[0], found[3]) and equal(found[0], found[6])
    assert not equal(found[0], found[2]) and not equal(found[2], found[5])


def test_at_eps_1_nothing_is_touched_not_even_the_sign_of_a_zero(tiny: Tiny, corpus: Path) -> None:
    loops = [loop_of(tiny("llama"), corpus, meta=meta) for meta in ([], ["reptile:every=1,eps=1"])]
    for loop in loops:
        with torch.no_grad():
            loop.parameters["model.embed_tokens.weight"][400] = -0.0  # a row that no text reads, without decay
    plain, other = (after(loop, 3) for loop in loops)
    assert all(equal(one, two) for one, two in zip(plain, other, strict=True))


def test_only_at_multiples_of_k(tiny: Tiny, corpus: Path) -> None:
    loop = loop_of(tiny("llama"), corpus, meta=["reptile:every=4"])
    for hook in loop.hooks:
        hook.begin(0)
    seen = []
    for step in range(1, 10):
        done = loop._step(step, loop.job.data.mixture.batch(step - 1))
        seen += [step] if "reptile_distance" in done.extra else []
    assert seen == [4, 8]


def test_the_distance_is_that_of_the_window(tiny: Tiny, corpus: Path) -> None:
    loop = loop_of(tiny("llama"), corpus, meta=["reptile:every=2"])
    before = after(loop, 0)[0]
    plain = after(loop_of(tiny("llama"), corpus), 2)[2]
    done = [loop._step(step, loop.job.data.mixture.batch(step - 1)) for step in (1, 2)]
    distance = sum(float((plain[n] - before[n]).double().square().sum()) for n in before) ** 0.5
    assert done[1].extra["reptile_distance"] == pytest.approx(distance, rel=1e-6)


def test_what_is_not_trained_is_not_kept(tiny: Tiny, corpus: Path) -> None:
    loop = loop_of(tiny("llama"), corpus, meta=["reptile:every=2"], train=r"layers\.2\.mlp")
    for hook in loop.hooks:
        hook.begin(0)
    start = loop.hooks[0].state()["start"]
    assert start.keys() == loop.parameters.keys() and all(".layers.2.mlp" in name for name in start)
    assert all(t.device.type == "cpu" and t.dtype == torch.float32 for t in start.values())


@pytest.mark.parametrize("word", ["reptile:eps=1.5", "reptile:eps=-0.1", "reptile:every=0", "reptile:every=two"])
def test_refusals(tiny: Tiny, corpus: Path, word: str) -> None:
    with pytest.raises(UsageError, match=r"is not valid"):
        loop_of(tiny("llama"), corpus, meta=[word])


def test_killed_in_the_middle_of_a_window_and_resumed(
    tiny: Tiny, corpus: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Windows of 4 steps; the state is that of step 6, the kill comes in step 7."""
    (tmp_path / "fatal_objective.py").write_text(OBJECTIVE)
    monkeypatch.syspath_prepend(tmp_path)
    options: dict[str, Any] = {
        "model": str(tiny("llama", "bfloat16", attention_dropout=0.1)), "data": [str(corpus)], "tokens": 640,
        "seq_len": 16, "batch_tokens": 64, "lr": 1e-2, "save_every": 3, "objective": "fatal_objective:fatal",
        "meta": ["reptile:every=4,eps=0.3"], "device": "cpu",
    }  # fmt: skip
    run_cpt(CptSettings(**options, out=str(tmp_path / "whole")))
    out = tmp_path / "killed"
    words = ["-c", PROGRAM, json.dumps(options | {"out": str(out)})]
    environment = os.environ | {"DIE_AT": "7", "PYTHONPATH": os.pathsep.join([str(tmp_path), *sys.path])}
    dead = warm.run(words, env=environment)
    assert dead.returncode == -signal.SIGKILL, dead.stderr
    held = sorted(p.name for p in (tmp_path / "killed.run" / "state").iterdir())
    assert held == ["step-00000003.pt", "step-00000006.pt"]  # no step has shown yet that the newer one is good
    run_cpt(CptSettings(**options, out=str(out), resume=True))
    for name in ("model.safetensors", "surgeon.json"):
        assert (out / name).read_bytes() == (tmp_path / "whole" / name).read_bytes()

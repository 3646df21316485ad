"""What every method of training owes a run, whichever it is: a new file is held to it by being there.

Methods are those of the registries of schedules, objectives, optimizers, regularizers and meta, and the policies of
masks. Where one cannot do what is asked for it refuses, by its name, before it has written anything.
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import torch
from training_methods import NEW_ROWS, Case, Lab, cases

from surgeon.checkpoint.header import read_header
from surgeon.checkpoint.reader import read, to_bytes
from surgeon.errors import SurgeonError
from surgeon.train import state
from surgeon.train.hook import Hook
from surgeon.train.job import prepare
from surgeon.train.loop import Loop
from surgeon.train.settings import CptSettings, methods

every_case = pytest.mark.parametrize("case", cases(), ids=str)


@pytest.fixture(scope="module")
def lab(tmp_path_factory: pytest.TempPathFactory, stories: Path) -> Lab:
    return Lab(tmp_path_factory.mktemp("methods"), stories)


@contextmanager
def refused_by_name(case: Case) -> Iterator[list[SurgeonError]]:
    """A refusal within it is caught, and must name the method."""
    found: list[SurgeonError] = []
    try:
        yield found
    except SurgeonError as refused:
        found.append(refused)
        assert case.name in f"{refused} {refused.where} {refused.hint}", refused


@pytest.fixture
def place(case: Case, lab: Lab) -> dict[str, str]:
    """What the method is tried on: the whole model, or an adapter where it refuses that by its name."""
    with refused_by_name(case) as refused:
        lab.run(case)
    return lab.on_adapter(case.on) if refused else {}


def weights(out: Path) -> bytes:
    return next(out.glob("*model.safetensors")).read_bytes()


def lines(out: Path) -> list[dict[str, Any]]:
    text = next((out / "surgeon").glob("metrics-*.jsonl")).read_text()
    return [
        {k: v for k, v in json.loads(x).items() if k not in ("tokens_per_second", "memory_bytes")}
        for x in text.splitlines()
    ]


def moved(before: Path, after: Path) -> dict[str, torch.Tensor]:
    """Tensors whose bytes differ, and which of their rows do."""
    a, b = (read_header(folder / "model.safetensors")[0] for folder in (before, after))
    assert a.keys() == b.keys()
    different = [n for n in a if to_bytes(read(a[n])) != to_bytes(read(b[n]))]
    return {n: (read(a[n]) != read(b[n])).reshape(a[n].shape[0], -1).any(1) for n in different}


def has_a_strength(case: Case) -> bool:
    return case.kind == "meta" or bool({"strength", "weight"} & {*case.method.options})


@pytest.mark.parametrize("case", [c for c in cases() if has_a_strength(c) or c.method.trait("NEUTRAL")], ids=str)
def test_it_says_when_it_does_nothing_and_then_does_nothing(case: Case, lab: Lab, place: dict[str, str]) -> None:
    assert case.method.trait("NEUTRAL"), "NEUTRAL = {option: value} in its module"
    neutral = case.method.trait("NEUTRAL")
    plain = weights(lab.run(None, **({"model": str(lab.models[case.on])} | place)))
    assert weights(lab.run(case, neutral=True, **place)) == plain
    if "every" not in neutral:  # a probe never does anything to the weights
        assert weights(lab.run(case, **place)) != plain


@every_case
def test_its_numbers_are_numbers(case: Case, lab: Lab, place: dict[str, str]) -> None:
    out = lab.run(case, **place)
    for line in lines(out):
        assert all(math.isfinite(v) for v in line.values() if isinstance(v, float)), line
    held = read_header(next(out.glob("*model.safetensors")))[0]
    assert held and all(bool(read(t).isfinite().all()) for t in held.values())


@every_case
def test_the_same_run_twice_is_the_same_bytes(case: Case, lab: Lab, place: dict[str, str]) -> None:
    one, two = (lab.run(case, tag, **place) for tag in ("", "again"))
    assert weights(one) == weights(two) and lines(one) == lines(two)
    assert (one / "surgeon.json").read_bytes() == (two / "surgeon.json").read_bytes()


@every_case
def test_broken_off_and_resumed_is_the_same_bytes(
    case: Case, lab: Lab, place: dict[str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """The run ends before step 5; the state is that of step 3, between two multiples of `every`."""
    whole, out = lab.run(case, **place), lab.folder / f"resumed-{case}"
    plain = Loop._step

    def step(self: Loop, number: int, windows: list[Any]) -> Any:
        if number == 5:
            raise RuntimeError("broken off")
        return plain(self, number, windows)

    monkeypatch.setattr(Loop, "_step", step)
    with pytest.raises(RuntimeError, match="broken off"):
        lab.run(case, out=str(out), **place)
    monkeypatch.undo()
    latest = state.latest(out.with_name(out.name + ".run"))
    assert latest is not None and latest.name == "step-00000003.pt"
    lab.run(case, out=str(out), resume=True, **place)
    assert weights(out) == weights(whole) and lines(out) == lines(whole)


@every_case
def test_it_says_whether_it_keeps_something(case: Case, lab: Lab, place: dict[str, str]) -> None:
    """So that an annealing from a checkpoint, which does not hold it, is refused before anything is made."""
    settings = CptSettings(**lab.settings(case, lab.folder / f"remembers-{case}") | place)
    loop = Loop(prepare(settings))
    said = case.method.trait("REMEMBERS", False)
    said = said(methods(settings)[case.kind][0][1]) if callable(said) else said
    assert said == any(type(hook).state is not Hook.state for hook in loop.hooks)


@every_case
def test_frozen_blocks_stay_as_they_are(case: Case, lab: Lab, place: dict[str, str]) -> None:
    if place:
        pytest.skip("it is for adapters alone")
    with refused_by_name(case) as refused:
        out = lab.run(case, train=r"layers?\.2\.", weight_decay=0.5)
    if not refused:
        found = moved(lab.models[case.on], out)
        assert found and all("layers.2." in n or "layer.2." in n for n in found)


@pytest.mark.parametrize("case", [c for c in cases() if c.on != "encoder"], ids=str)
def test_frozen_rows_stay_as_they_are(case: Case, lab: Lab, place: dict[str, str]) -> None:
    if place:
        pytest.skip("it is for adapters alone")
    with refused_by_name(case) as refused:
        out = lab.run(case, train="new-rows", weight_decay=0.5)
    if not refused:
        found = moved(lab.models[case.on], out)
        assert [*found] == ["model.embed_tokens.weight"]
        assert set(torch.nonzero(found["model.embed_tokens.weight"]).flatten().tolist()) <= {*NEW_ROWS}


@every_case
def test_an_adapter_is_trained_or_refused_by_name(case: Case, lab: Lab) -> None:
    with refused_by_name(case) as refused:
        out = lab.run(case, **lab.on_adapter(case.on))
    if not refused:
        assert weights(out) != (lab.adapters[case.on] / "adapter_model.safetensors").read_bytes()


@pytest.mark.parametrize("case", [c for c in cases() if c.method.trait("CORPORA")], ids=str)
def test_the_record_holds_what_a_corpus_is_not_where_it_lies(case: Case, lab: Lab, place: dict[str, str]) -> None:
    given = lab.options(case)
    if case.policy is None:  # all corpora that it can read; policies have some each
        given |= {name: str(lab.corpora["general"]) for name in case.method.trait("CORPORA")}
    option = {f"{case.kind}.{name}": value for name, value in given.items()}
    text = (lab.run(case, option=option, **place) / "surgeon.json").read_text()
    assert str(lab.folder) not in text
    reads = any(name in given for name in case.method.trait("CORPORA"))
    assert len(json.loads(text)["settings"].get("probes", [])) == int(reads)

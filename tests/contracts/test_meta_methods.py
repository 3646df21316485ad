"""What every method of the kind `meta` owes a run, whichever it is: a new file is held to it by being there.

A method declares NEUTRAL: options at which it changes nothing, to the byte. One that is for adapters alone refuses
other runs by its name, and is held to the rest on an adapter.
"""

from __future__ import annotations

import json
import math
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from surgeon import registry
from surgeon.checkpoint.index import Checkpoint
from surgeon.checkpoint.lineage import Lineage, NewRow, RowMap, dump_lineage
from surgeon.checkpoint.reader import read, to_bytes
from surgeon.errors import SurgeonError
from surgeon.train import state
from surgeon.train.loop import Loop
from surgeon.train.run import run_cpt
from surgeon.train.settings import CptSettings

METHODS = registry.names("meta")
STEPS, EVERY = 6, 2

Run = Callable[..., Path]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("meta")


@pytest.fixture(scope="module")
def model(folder: Path, stories: Path) -> Path:
    """With dropout, so that a method that draws random numbers of the run's is found out; two rows are new."""
    target = folder / "model"
    shutil.copytree(stories, target)
    config = json.loads((target / "config.json").read_text())
    (target / "config.json").write_text(json.dumps(config | {"attention_dropout": 0.1}))
    rows = [NewRow(id=i, token="x", pieces=[5]) for i in (300, 511)]
    surgery = RowMap(old=510, rows=512, new=rows, method="m", method_output="m")
    (target / "surgeon.json").write_text(dump_lineage(Lineage(operation="surgery", kind="surgery", rows=surgery)))
    return target


@pytest.fixture(scope="module")
def corpora(folder: Path, stories: Path) -> dict[str, Path]:
    found = {}
    for name in ("general", "domain"):
        lines = (stories.parent / f"{name}.train.jsonl").read_text().splitlines()[:6]
        found[name] = folder / f"{name}.jsonl"
        found[name].write_text("\n".join(lines) + "\n")
    return found


@pytest.fixture(scope="module")
def run(folder: Path, model: Path, corpora: dict[str, Path]) -> Run:
    """Runs with a method (None: without any) and options; one that was made before is given again."""
    made: dict[str, Path] = {}

    def with_method(name: str | None, options: dict[str, Any], tag: str = "", **changes: Any) -> Path:
        key = json.dumps([name, options, tag, changes], default=str)
        if key in made:
            return made[key]
        out = folder / f"out{len(made)}{tag}"
        settings: dict[str, Any] = {
            "model": str(model), "out": str(out), "data": [str(corpora["domain"])],
            "replay": [str(corpora["general"])], "replay_ratio": 0.3, "tokens": STEPS * 128, "seq_len": 32,
            "batch_tokens": 128, "micro_batch": 2, "lr": 1e-2, "device": "cpu", "save_every": 3,
        }  # fmt: skip
        if name is not None:
            settings |= {"meta": [name], "option": {f"meta.{k}": v for k, v in options.items()}}
        run_cpt(CptSettings(**settings | changes))
        made[key] = out
        return out

    return with_method


def options(name: str, corpora: dict[str, Path], *, neutral: bool = False) -> dict[str, Any]:
    """Options at which a method acts within a few steps, or (neutral) does not act at all."""
    method = registry.get("meta", name)
    required = {key for key, option in method.options.items() if option.required}
    assert required <= {*method.trait("CORPORA", ())}, "only a corpus has no default"
    found: dict[str, Any] = {key: str(corpora["general"]) for key in sorted(required)}
    found |= {"every": EVERY} if "every" in method.options else {}
    return found | (method.trait("NEUTRAL") if neutral else {})


@pytest.fixture(scope="module")
def adapter(folder: Path, model: Path) -> Path:
    from peft import LoraConfig, get_peft_model
    from transformers import AutoModelForCausalLM

    plain = AutoModelForCausalLM.from_pretrained(model)
    get_peft_model(plain, LoraConfig(r=2, target_modules=["q_proj", "down_proj"])).save_pretrained(folder / "adapter")
    return folder / "adapter"


@pytest.fixture
def place(name: str, run: Run, corpora: dict[str, Path], model: Path, adapter: Path) -> dict[str, str]:
    """What the method is tried on: the whole model, or an adapter where it refuses that by its name."""
    on_adapter = {"model": f"{model}+{adapter}", "train": "adapter"}
    try:
        run(name, options(name, corpora))
    except SurgeonError as refused:
        assert name in f"{refused} {refused.where} {refused.hint}"
        return on_adapter
    return {}


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
    a, b = Checkpoint.open(before).tensors, Checkpoint.open(after).tensors
    assert a.keys() == b.keys()
    different = [n for n in a if to_bytes(read(a[n])) != to_bytes(read(b[n]))]
    return {n: (read(a[n]) != read(b[n])).reshape(a[n].shape[0], -1).any(1) for n in different}


@pytest.mark.parametrize("name", METHODS)
def test_it_says_when_it_does_nothing_and_then_does_nothing(
    name: str, run: Run, corpora: dict[str, Path], place: dict[str, str]
) -> None:
    assert registry.get("meta", name).trait("NEUTRAL"), "NEUTRAL = {option: value} in its module"
    assert weights(run(name, options(name, corpora, neutral=True), **place)) == weights(run(None, {}, **place))


@pytest.mark.parametrize("name", METHODS)
def test_its_numbers_are_numbers(name: str, run: Run, corpora: dict[str, Path], place: dict[str, str]) -> None:
    for line in lines(run(name, options(name, corpora), **place)):
        assert all(math.isfinite(v) for v in line.values() if isinstance(v, float)), line


@pytest.mark.parametrize("name", METHODS)
def test_the_same_run_twice_is_the_same_bytes(
    name: str, run: Run, corpora: dict[str, Path], place: dict[str, str]
) -> None:
    one, two = (run(name, options(name, corpora), tag, **place) for tag in ("", "again"))
    assert weights(one) == weights(two) and lines(one) == lines(two)
    assert (one / "surgeon.json").read_bytes() == (two / "surgeon.json").read_bytes()


@pytest.mark.parametrize("name", METHODS)
def test_broken_off_and_resumed_is_the_same_bytes(
    name: str, run: Run, corpora: dict[str, Path], place: dict[str, str], folder: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    """The run ends before step 5; the state is that of step 3, between two multiples of `every`."""
    whole, out = run(name, options(name, corpora), **place), folder / f"resumed-{name}"
    plain = Loop._step

    def step(self: Loop, number: int, windows: list[Any]) -> Any:
        if number == 5:
            raise RuntimeError("broken off")
        return plain(self, number, windows)

    monkeypatch.setattr(Loop, "_step", step)
    with pytest.raises(RuntimeError, match="broken off"):
        run(name, options(name, corpora), out=str(out), **place)
    monkeypatch.undo()
    latest = state.latest(out.with_name(out.name + ".run"))
    assert latest is not None and latest.name == "step-00000003.pt"
    run(name, options(name, corpora), out=str(out), resume=True, **place)
    assert weights(out) == weights(whole) and lines(out) == lines(whole)


@pytest.mark.parametrize("name", METHODS)
def test_frozen_blocks_stay_as_they_are(
    name: str, run: Run, corpora: dict[str, Path], model: Path, place: dict[str, str]
) -> None:
    if place:
        pytest.skip("it is for adapters alone")
    out = run(name, options(name, corpora), train=r"layers\.[34]\.", weight_decay=0.5)
    found = moved(model, out)
    assert found and all(".layers.3." in n or ".layers.4." in n for n in found)


@pytest.mark.parametrize("name", METHODS)
def test_frozen_rows_stay_as_they_are(
    name: str, run: Run, corpora: dict[str, Path], model: Path, place: dict[str, str]
) -> None:
    if place:
        pytest.skip("it is for adapters alone")
    out = run(name, options(name, corpora), train="new-rows", weight_decay=0.5)
    found = moved(model, out)
    assert [*found] == ["model.embed_tokens.weight"]
    assert set(torch.nonzero(found["model.embed_tokens.weight"]).flatten().tolist()) <= {300, 511}


@pytest.mark.parametrize("name", METHODS)
def test_an_adapter_is_trained_or_refused_by_name(
    name: str, run: Run, corpora: dict[str, Path], model: Path, adapter: Path
) -> None:
    try:
        out = run(name, options(name, corpora), model=f"{model}+{adapter}", train="adapter")
    except SurgeonError as refused:
        assert name in str(refused)
        return
    assert weights(out) != (adapter / "adapter_model.safetensors").read_bytes()


@pytest.mark.parametrize("name", METHODS)
def test_the_record_holds_what_a_corpus_is_not_where_it_lies(
    name: str, run: Run, corpora: dict[str, Path], place: dict[str, str]
) -> None:
    named = {key: str(corpora["general"]) for key in registry.get("meta", name).trait("CORPORA", ())}
    if not named:
        pytest.skip("it reads no corpus of its own")
    text = (run(name, options(name, corpora) | named, **place) / "surgeon.json").read_text()
    assert str(corpora["general"].parent) not in text
    assert len(json.loads(text)["settings"]["probes"]) == 1

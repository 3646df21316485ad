"""Trackers: every number by its name, options that do not decide the result, refusals before anything is read."""

from __future__ import annotations

import json
import struct
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from surgeon import registry
from surgeon.errors import SurgeonError, UsageError
from surgeon.train import tracking
from surgeon.train.settings import CptSettings, methods

LINES: list[dict[str, Any]] = [
    {"step": 0, "tokens": 0, "eval": [{"step": 0, "name": "old", "nats_per_token": 1.5, "bits_per_byte": 0.75}]},
    {"step": 1, "tokens": 64, "loss": 2.5, "lr": 0.125, "grad_norm": 0.5, "tokens_per_second": 10.5, "mfu": None},
    {"step": 2, "tokens": 128, "loss": 2.25, "lr": 0.25, "grad_norm": 0.5, "tokens_per_second": 11.0, "mfu": 0.25,
     "memory_bytes": 4096, "parts": {"kl": 0.0625}},
    {"step": 3, "tokens": 192, "loss": 2.0, "lr": 0.0, "grad_norm": 0.25, "tokens_per_second": 12.0, "mfu": None,
     "eval": [{"step": 3, "name": "old", "nats_per_token": 1.25, "bits_per_byte": 0.625}]},
]  # fmt: skip


def settings(**changes: Any) -> CptSettings:
    return CptSettings(**({"model": "m", "out": "o", "data": ["d"], "tokens": 1} | changes))


def opened(name: str, out: Path, first: int = 0, **options: Any) -> tracking.Tracker:
    found = methods(settings(track=[name], option={f"tracker.{k}": v for k, v in options.items()}))["tracker"]
    (tracker,) = tracking.opened(found, out, first, {"tokens": 192, "data": ["d"]})
    return tracker


def test_numbers_by_name() -> None:
    assert tracking.scalars(LINES[0]) == {
        "train/tokens": 0.0, "eval/old/nats_per_token": 1.5, "eval/old/bits_per_byte": 0.75
    }  # fmt: skip
    assert tracking.scalars(LINES[2]) == {
        "train/tokens": 128.0, "train/loss": 2.25, "train/lr": 0.25, "train/grad_norm": 0.5,
        "speed/tokens_per_second": 11.0, "speed/mfu": 0.25, "memory/memory_bytes": 4096.0, "train/parts/kl": 0.0625,
    }  # fmt: skip


@pytest.mark.parametrize("name", registry.names("tracker"))
def test_an_absent_package_is_refused_before_anything_is_read(
    name: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    from surgeon.cli.app import main

    monkeypatch.setitem(sys.modules, name, None)
    out = tmp_path / "out"
    with pytest.raises(SystemExit) as stop:
        main(["cpt", "absent", str(out), "--data", "absent", "--tokens", "64", "--track", name, "--quiet"])
    assert stop.value.code == 2 and not list(tmp_path.iterdir())
    problem, where, mend = capsys.readouterr().err.splitlines()
    assert f"needs the package {name!r}, which is not installed" in problem
    assert where.endswith(f"--track {name}") and f"pip install {name}" in mend


def test_a_folder_is_no_package(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """wandb leaves a folder `wandb` where it runs, which Python would import as an empty package."""
    (tmp_path / "no_such_tracker").mkdir()
    monkeypatch.syspath_prepend(str(tmp_path))
    assert not tracking._is_installed("no_such_tracker") and not tracking._is_installed("neither_this")
    assert tracking._is_installed("torch")


def test_wrong_words() -> None:
    with pytest.raises(UsageError, match="no tracker 'tensorbord'") as caught:
        methods(settings(track=["tensorbord"]))
    assert "tensorboard" in caught.value.hint


OWN = '''
class Kept:
    def __init__(self, out, first, settings, tag):
        self.place, self.first, self.tag, self.ended = str(out), first, tag, []
    def step(self, line): ...
    def end(self, ok):
        self.ended.append(ok)

made = []

def kept(out, first, settings, *, tag: str = "none"):
    """Keeps."""
    made.append(Kept(out, first, settings, tag))
    return made[-1]

def full(out, first, settings):
    """Cannot be opened."""
    raise OSError(28, "No space left on device")
'''


@pytest.fixture
def own(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> str:
    """A module with two trackers of one's own."""
    name = f"own_trackers_{tmp_path.name}".replace("-", "_")
    (tmp_path / f"{name}.py").write_text(OWN)
    monkeypatch.syspath_prepend(str(tmp_path))
    return name


def test_one_of_ones_own_with_an_option(own: str, tmp_path: Path) -> None:
    tracker: Any = opened(f"{own}:kept", tmp_path / "out", 7, tag="x")
    assert (tracker.place, tracker.first, tracker.tag) == (str(tmp_path / "out"), 7, "x")
    for wrong, said in (({"tag": "x"}, "no method of this run"), ({"tracker.tga": "x"}, "no method of this run")):
        with pytest.raises(UsageError, match=said) as caught:
            methods(settings(track=[f"{own}:kept"], option=wrong))
        assert "tracker.tag" in caught.value.hint
    with pytest.raises(UsageError, match="named twice"):
        methods(settings(track=[f"{own}:kept", f"{own}:kept"]))


def test_what_was_opened_is_ended_where_the_next_cannot_be(own: str, tmp_path: Path) -> None:
    found = methods(settings(track=[f"{own}:kept", f"{own}:full"]))["tracker"]
    with pytest.raises(SurgeonError, match="No space left on device") as caught:
        tracking.opened(found, tmp_path / "out", 0, {})
    assert caught.value.where == f"--track {own}:full"
    assert [t.ended for t in sys.modules[own].made] == [[False]]


def test_tracking_does_not_decide_the_result() -> None:
    plain, tracked = settings(), settings(track=["tensorboard"], option={"tracker.logdir": "x"})
    assert tracked.deciding() == plain.deciding()
    assert settings(option={"warmup": 0.5}).deciding() != plain.deciding()


def test_tensorboard_has_every_number(tmp_path: Path) -> None:
    """Read back by TensorBoard's own reader; the numbers are such that float32 holds them."""
    pytest.importorskip("tensorboard")
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    def run(lines: list[dict[str, Any]], first: int = 0) -> None:
        tracker = opened("tensorboard", tmp_path / "out", first)
        assert tracker.place == str(tmp_path / "out.tensorboard")
        for line in lines:
            tracker.step(line)
        tracker.end(True)

    def read() -> dict[str, list[tuple[int, float]]]:
        events = EventAccumulator(str(tmp_path / "out.tensorboard")).Reload()
        return {tag: [(e.step, e.value) for e in events.Scalars(tag)] for tag in events.Tags()["scalars"]}

    expected: dict[str, list[tuple[int, float]]] = {}
    for line in LINES:
        for tag, value in tracking.scalars(line).items():
            expected.setdefault(tag, []).append((line["step"], value))
    run(LINES)
    assert read() == expected
    changed = [line | ({"loss": 9.0} if "loss" in line else {}) for line in LINES]
    run(changed[2:], first=1)  # a run that goes on from step 1 does steps 2 and 3 again
    assert read() == expected | {"train/loss": [(1, 2.5), (2, 9.0), (3, 9.0)]}
    run(changed[:2])  # a run that is begun anew
    assert read()["train/loss"] == [(1, 9.0)]
    assert not (tmp_path / "out").exists()


def test_tensorboard_where_one_says(tmp_path: Path) -> None:
    pytest.importorskip("tensorboard")
    opened("tensorboard", tmp_path / "out", logdir=str(tmp_path / "a" / "b")).end(True)
    assert [p.name for p in tmp_path.iterdir()] == ["a"] and list((tmp_path / "a" / "b").glob("events.*"))


def wandb_records(path: Path) -> Iterator[bytes]:
    """The records of a .wandb file: LevelDB's log format (blocks of 32 KiB, parts with checksum, length and kind)
    behind 7 bytes of Weights & Biases' own."""
    data, at, record = path.read_bytes(), 7, b""
    while at + 7 <= len(data):
        left = 32768 - at % 32768
        if left < 7:
            at += left
            continue
        _, length, kind = struct.unpack_from("<IHB", data, at)
        record += data[at + 7 : at + 7 + length]
        at += 7 + length
        if kind in (1, 4):  # whole, or the last part
            yield record
            record = b""


def test_wandb_keeps_every_number_offline(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("wandb")
    from wandb.proto import wandb_internal_pb2

    for name in ("WANDB_CACHE_DIR", "WANDB_CONFIG_DIR", "WANDB_DATA_DIR"):
        monkeypatch.setenv(name, str(tmp_path / "home"))
    monkeypatch.chdir(tmp_path)

    def run(lines: list[dict[str, Any]], first: int = 0) -> str:
        tracker = opened("wandb", tmp_path / "out", first, mode="offline", project="p")
        assert tracker.place == str(tmp_path / "out.wandb")
        for line in lines:
            tracker.step(line)
        tracker.end(True)
        return (tmp_path / "out.wandb" / "run-id").read_text().strip()

    def history(path: Path) -> list[dict[str, Any]]:
        found = []
        for data in wandb_records(path):
            record = wandb_internal_pb2.Record()
            record.ParseFromString(data)
            if record.HasField("history"):
                items = record.history.item
                found.append({"/".join(i.nested_key) or i.key: json.loads(i.value_json) for i in items})
        return found

    first = run(LINES)
    (kept,) = (tmp_path / "out.wandb").rglob(f"run-{first}.wandb")
    told = history(kept)
    assert [h["_step"] for h in told] == [0, 1, 2, 3]
    for line, held in zip(LINES, told, strict=True):
        assert {k: v for k, v in held.items() if not k.startswith("_")} == tracking.scalars(line)
    assert run(LINES[3:], first=2) == first, "a run that goes on is the same run"
    assert run(LINES[:1]) != first, "a run that is begun anew is another"
    assert not (tmp_path / "out").exists() and not (tmp_path / "wandb").exists()

"""A run that was killed ends with the same bytes as one that was not; what would change them is refused."""

from __future__ import annotations

import dataclasses
import json
import os
import resource
import signal
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import warm
from resume_runs import PROGRAM, files, options_of

from surgeon.checkpoint.index import Checkpoint
from surgeon.errors import SurgeonError
from surgeon.expand.plan import ExpandSettings, plan_expand
from surgeon.operations import perform
from surgeon.ops.execute import execute
from surgeon.saved_plan import apply_plan, save_plan
from surgeon.train import state
from surgeon.train.log import MetricsLog
from surgeon.train.run import run_cpt
from surgeon.train.settings import CptSettings


@pytest.fixture
def options(
    tiny: Callable[..., Path], corpus: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> dict[str, Any]:
    return options_of(tiny, corpus, tmp_path, monkeypatch)


def test_killed_and_resumed_is_the_same_bytes(options: dict[str, Any], tmp_path: Path) -> None:
    run_cpt(CptSettings(**options, out=str(tmp_path / "whole")))
    out = tmp_path / "killed"
    # two micro-batches a step: call 15 is in step 8, and the newest state is that of step 6
    environment = os.environ | {"DIE_AT": "15", "PYTHONPATH": os.pathsep.join([str(tmp_path), *sys.path])}
    words = ["-c", PROGRAM, json.dumps(options | {"out": str(out)})]
    dead = warm.run(words, env=environment)
    assert dead.returncode == -signal.SIGKILL, dead.stderr
    assert not out.exists()
    run_dir = tmp_path / "killed.run"
    assert [p.name for p in (run_dir / "state").iterdir()] == ["step-00000006.pt"]
    assert json.loads((run_dir / "metrics.jsonl").read_text().splitlines()[-1])["step"] == 7

    with pytest.raises(SurgeonError, match="broken off") as refused:
        run_cpt(CptSettings(**options, out=str(out)))
    assert "--resume" in refused.value.hint and "--force" in refused.value.hint
    with pytest.raises(SurgeonError, match=r"lr \(0.01 -> 0.02\)"):
        run_cpt(CptSettings(**options | {"lr": 0.02}, out=str(out), resume=True))

    run_cpt(CptSettings(**options, out=str(out), resume=True))
    assert files(out) == files(tmp_path / "whole")
    assert not run_dir.exists()


def test_a_run_that_was_done_but_not_written_is_only_written(options: dict[str, Any], tmp_path: Path) -> None:
    first = run_cpt(CptSettings(**options, out=str(tmp_path / "one"), keep_state=True))
    (tmp_path / "one.run").rename(tmp_path / "two.run")
    second = run_cpt(CptSettings(**options, out=str(tmp_path / "two"), resume=True))
    assert files(tmp_path / "one") == files(tmp_path / "two")
    assert second.tokens == first.tokens


def test_resume_with_nothing_there_begins(options: dict[str, Any], tmp_path: Path) -> None:
    assert run_cpt(CptSettings(**options, out=str(tmp_path / "one"), resume=True)).steps == 10


def test_other_data_are_refused(options: dict[str, Any], tmp_path: Path, corpus: Path) -> None:
    run_cpt(CptSettings(**options, out=str(tmp_path / "one"), keep_state=True))
    (tmp_path / "one.run").rename(tmp_path / "two.run")
    corpus.write_text(corpus.read_text() + '{"text": "One more."}\n')
    with pytest.raises(SurgeonError, match="this changed: data"):
        run_cpt(CptSettings(**options, out=str(tmp_path / "two"), resume=True))


def test_a_damaged_state_is_refused(tmp_path: Path) -> None:
    (tmp_path / "step-00000001.pt").write_bytes(b"no")
    with pytest.raises(SurgeonError, match="cannot be read") as refused:
        state.load(tmp_path / "step-00000001.pt")
    assert refused.value.hint == "start anew with --force"
    (tmp_path / "step-00000003.pt").write_bytes(b"no")
    with pytest.raises(SurgeonError, match="cannot be read") as refused:
        state.load(tmp_path / "step-00000003.pt")
    assert refused.value.hint == "remove step-00000003.pt, and --resume goes on from step-00000001.pt"


def test_a_run_of_another_type_is_not_gone_on_with(options: dict[str, Any], tmp_path: Path) -> None:
    """What "auto" means is another type on another device."""
    run_cpt(CptSettings(**options, out=str(tmp_path / "one"), keep_state=True))
    lineage = Checkpoint.open(tmp_path / "one").lineage
    assert lineage is not None and lineage.settings["dtype"] == "float32"
    (tmp_path / "one.run").rename(tmp_path / "two.run")
    with pytest.raises(SurgeonError, match="this changed: dtype"):
        run_cpt(CptSettings(**options | {"dtype": "bfloat16"}, out=str(tmp_path / "two"), resume=True))
    run_cpt(CptSettings(**options | {"dtype": "float32"}, out=str(tmp_path / "two"), resume=True))
    assert files(tmp_path / "one") == files(tmp_path / "two")


def test_a_run_may_go_on_with_its_device_named(options: dict[str, Any], tmp_path: Path) -> None:
    """`auto` is the CPU where there is nothing else, and the other way round."""
    run_cpt(CptSettings(**options, out=str(tmp_path / "one"), keep_state=True))
    (tmp_path / "one.run").rename(tmp_path / "two.run")
    run_cpt(CptSettings(**options | {"device": "auto"}, out=str(tmp_path / "two"), resume=True))
    held, other = (files(tmp_path / name) for name in ("one", "two"))
    assert held["model.safetensors"] == other["model.safetensors"]


def test_metrics_are_read_whatever_a_corpus_is_called(tmp_path: Path) -> None:
    values = [{"step": n, "eval": [{"corpus": "a\u2028b\u0085c"}]} for n in (1, 2)]
    log = MetricsLog(tmp_path / "metrics.jsonl", 0)
    for value in values:
        log.write(value)
    log.close()
    with (tmp_path / "metrics.jsonl").open("ab") as file:
        file.write('{"step": 3, "cut in the midst of ä'.encode()[:-1])
    assert MetricsLog.read(tmp_path / "metrics.jsonl") == values
    (tmp_path / "metrics.jsonl").write_bytes(b"\0\0\n")  # what a power failure leaves of a file
    with pytest.raises(SurgeonError, match="a line of the metrics is not a step"):
        MetricsLog(tmp_path / "metrics.jsonl", 2)


def test_metrics_on_a_full_disk_are_refused_by_name(tmp_path: Path) -> None:
    log, limits = MetricsLog(tmp_path / "metrics.jsonl", 0), resource.getrlimit(resource.RLIMIT_FSIZE)
    log.write({"step": 1})
    resource.setrlimit(resource.RLIMIT_FSIZE, (20, limits[1]))
    try:
        with pytest.raises(SurgeonError, match="the metrics cannot be written: File too large") as refused:
            log.write({"step": 2})
        log.close()  # nothing is left to be written
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert refused.value.where == str(tmp_path / "metrics.jsonl")
    assert MetricsLog.read(tmp_path / "metrics.jsonl") == [{"step": 1}]


@pytest.mark.parametrize("share", [0.3, 0.5, 0.9])
def test_a_flipped_bit_in_a_state_is_seen(share: float, options: dict[str, Any], tmp_path: Path) -> None:
    """torch.load compares nothing with the checksums that torch.save writes."""
    out = tmp_path / "one"
    run_cpt(CptSettings(**options, out=str(out), keep_state=True, keep_states=2))
    older, newest = state.saved(tmp_path / "one.run")
    raw = bytearray(newest.read_bytes())
    raw[int(len(raw) * share)] ^= 1
    newest.write_bytes(raw)
    out.rename(tmp_path / "whole")
    with pytest.raises(SurgeonError, match="the state cannot be read") as refused:
        run_cpt(CptSettings(**options, out=str(out), resume=True))
    assert refused.value.hint == f"remove {newest.name}, and --resume goes on from {older.name}"
    newest.unlink()
    run_cpt(CptSettings(**options, out=str(out), resume=True))
    assert files(out) == files(tmp_path / "whole")


def test_force_replaces_a_finished_output_and_a_broken_run(options: dict[str, Any], tmp_path: Path) -> None:
    out = tmp_path / "one"
    run_cpt(CptSettings(**options, out=str(out), keep_state=True))
    with pytest.raises(SurgeonError, match="exists already"):
        run_cpt(CptSettings(**options, out=str(out)))
    before = (out / "model.safetensors").read_bytes()
    run_cpt(CptSettings(**options | {"seed": 5}, out=str(out)), force=True)
    assert (out / "model.safetensors").read_bytes() != before


def test_the_same_run_twice_is_the_same_bytes(options: dict[str, Any], tmp_path: Path) -> None:
    for name in ("one", "two"):
        run_cpt(CptSettings(**options, out=str(tmp_path / name)))
    assert files(tmp_path / "one") == files(tmp_path / "two")


def test_one_process_a_run(options: dict[str, Any], tmp_path: Path) -> None:
    out = tmp_path / "one"
    settings = CptSettings(**options, out=str(out), resume=True)
    with state.owned(settings.run_dir):
        for force in (False, True):
            with pytest.raises(SurgeonError, match="another process is training"):
                run_cpt(settings, force=force)
    assert not settings.run_dir.exists()
    run_cpt(settings)


def test_surgery_does_not_take_the_place_of_a_run_at_work(
    options: dict[str, Any], stories: Path, tmp_path: Path
) -> None:
    out = tmp_path / "one"
    settings = CptSettings(**options, out=str(out))
    expanding = ExpandSettings(model=str(stories), out=out, add=1)
    with state.owned(settings.run_dir):
        with pytest.raises(SurgeonError, match="another process is training"):
            perform("expand-layers", expanding)
        with pytest.raises(SurgeonError, match="another process is training"):
            execute(plan_expand(expanding), out)
        state.record_settings(settings.run_dir, {})
    assert state.is_begun(settings.run_dir) and not out.exists()
    perform("expand-layers", expanding)  # it was broken off: nobody holds its folder


def test_a_folder_that_is_no_run_is_left_alone(options: dict[str, Any], tmp_path: Path) -> None:
    own = tmp_path / "one.run" / "notes.txt"
    own.parent.mkdir()
    own.write_text("mine")
    for force in (False, True):
        with pytest.raises(SurgeonError, match="something else"):
            run_cpt(CptSettings(**options, out=str(tmp_path / "one")), force=force)
    assert own.read_text() == "mine" and list(own.parent.iterdir()) == [own]


def test_a_refused_run_leaves_nothing(options: dict[str, Any], tmp_path: Path) -> None:
    with pytest.raises(SurgeonError):
        run_cpt(CptSettings(**options | {"data": ("absent.jsonl",)}, out=str(tmp_path / "one")))
    assert not list(tmp_path.glob("one*"))


def test_a_full_disk_keeps_the_state_before(options: dict[str, Any], tmp_path: Path) -> None:
    """The kernel's own refusal to write on, by a limit on the size of files."""
    run_cpt(CptSettings(**options, out=str(tmp_path / "one"), keep_state=True))
    path = state.latest(tmp_path / "one.run")
    assert path is not None
    held, size = state.load(path), path.stat().st_size
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size // 2, limits[1]))
    try:
        with pytest.raises(SurgeonError, match="cannot be written"):
            state.save(tmp_path / "one.run", dataclasses.replace(held, step=held.step + 1))
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert [p.name for p in path.parent.iterdir()] == [path.name]


def test_a_saved_plan_holds_its_inputs_to_their_bytes(options: dict[str, Any], tmp_path: Path, corpus: Path) -> None:
    plan, out = tmp_path / "plan.json", tmp_path / "one"
    digest = save_plan(plan, "cpt", CptSettings(**options, out=str(out)))
    before = corpus.read_text()
    corpus.write_text(before + '{"text": "One more."}\n')
    with pytest.raises(SurgeonError, match="data, replay"):
        apply_plan(plan, None)
    assert not list(tmp_path.glob("one*"))
    corpus.write_text(before)
    assert apply_plan(plan, None)["plan_digest"] == digest

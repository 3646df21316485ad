"""cpt --keep-checkpoints: whole checkpoints of the newest save points, the same bytes however the run came to them."""

from __future__ import annotations

import json
import os
import shutil
import signal
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import warm

from surgeon.checkpoint.index import Checkpoint
from surgeon.errors import SurgeonError, UsageError
from surgeon.train import folder as train_folder
from surgeon.train import state
from surgeon.train.describe import describe_cpt
from surgeon.train.loop import Loop
from surgeon.train.run import run_cpt
from surgeon.train.settings import CptSettings
from surgeon.verify import verify

# kills its process while the n-th checkpoint is being written: the weights are there, the lineage is, the name is not
PROGRAM = """
import json, os, signal, sys, torch
torch.set_num_threads(1)
from surgeon.train import folder
from surgeon.train.run import run_cpt
from surgeon.train.settings import CptSettings
calls, verify = [], folder._verify
def fatal(*given):
    calls.append(given)
    if len(calls) == int(os.environ["DIE_AT"]):
        os.kill(os.getpid(), signal.SIGKILL)
    return verify(*given)
folder._verify = fatal
run_cpt(CptSettings(**json.loads(sys.argv[1])))
"""


@pytest.fixture
def options(stories: Path, corpus: Path) -> dict[str, Any]:
    """Ten steps on the real small model, saved after steps 3, 6, 9 and 10."""
    return {
        "model": str(stories), "data": (str(corpus),), "tokens": 640, "seq_len": 16, "batch_tokens": 64, "lr": 1e-2,
        "save_every": 3, "keep_checkpoints": 3, "eval": (f"own={corpus}",), "eval_every": 4, "device": "cpu",
    }  # fmt: skip


def kept(out: Path) -> Path:
    return out.with_name(out.name + ".run") / "checkpoints"


def tree(folder: Path) -> dict[str, bytes]:
    return {str(p.relative_to(folder)): p.read_bytes() for p in folder.rglob("*") if p.is_file()}


def test_the_newest_are_kept_and_each_is_a_model(options: dict[str, Any], stories: Path, tmp_path: Path) -> None:
    from transformers import AutoModelForCausalLM, AutoTokenizer

    out = tmp_path / "out"
    result = run_cpt(CptSettings(**options, out=str(out)))
    names = ["step-00000006", "step-00000009", "step-00000010"]
    assert sorted(p.name for p in kept(out).iterdir()) == names
    assert [p.name for p in kept(out).parent.iterdir()] == ["checkpoints"]  # all else is cleared as ever
    assert result.to_json()["checkpoints"] == [str(kept(out) / n) for n in names]

    last = kept(out) / names[-1]
    for name in ("model.safetensors", "config.json", "tokenizer.json", "tokenizer_config.json"):
        assert (last / name).read_bytes() == (out / name).read_bytes(), name
    assert len({(kept(out) / n / "model.safetensors").read_bytes() for n in names}) == 3
    for name, step in zip(names, (6, 9, 10), strict=True):
        folder = kept(out) / name
        assert verify(folder)["holds"]
        lineage = Checkpoint.open(folder).lineage
        assert lineage is not None and lineage.training is not None and lineage.plan == result.plan_digest
        assert (lineage.operation, lineage.kind, lineage.training["steps"]) == ("cpt", "training", step)
        assert lineage.training.get("of_steps") == (None if step == 10 else 10)
        assert 0 < lineage.training["tokens"] <= result.tokens
        assert [e["step"] for e in lineage.training["eval"]] == [e for e in (0, 4, 8, 10) if e <= step]
        parent = lineage.parents[0]
        assert parent.digest == Checkpoint.open(stories).digest and (folder / parent.path).resolve() == stories
        model, info = AutoModelForCausalLM.from_pretrained(folder, output_loading_info=True)
        assert not any(info[key] for key in ("missing_keys", "unexpected_keys", "mismatched_keys"))
        ids = AutoTokenizer.from_pretrained(folder)("Once upon a time", return_tensors="pt").input_ids
        assert torch.isfinite(model(ids).logits).all()


def test_keeping_does_not_decide_the_result(options: dict[str, Any], tmp_path: Path) -> None:
    for name, count in (("none", None), ("one", 1), ("many", 99)):
        run_cpt(CptSettings(**options | {"keep_checkpoints": count}, out=str(tmp_path / name)))
    held = [tree(tmp_path / name) for name in ("none", "one", "many")]
    weights, lineage = ([t[f] for t in held] for f in ("model.safetensors", "surgeon.json"))
    assert weights[0] == weights[1] == weights[2] and lineage[0] == lineage[1] == lineage[2]
    assert not (tmp_path / "none.run").exists()
    steps = [[int(p.name[5:]) for p in sorted(kept(tmp_path / name).iterdir())] for name in ("one", "many")]
    assert steps == [[10], [3, 6, 9, 10]]


@pytest.mark.parametrize("stop", [5, 6, 8])
def test_a_run_that_was_stopped_keeps_the_same_ones(
    stop: int, options: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The state of the step at which SIGTERM came is none of the save points: an average would be another one."""
    run_cpt(CptSettings(**options, out=str(tmp_path / "whole")))
    with monkeypatch.context() as patch:
        real, came = Loop.windows, []

        def windows(self: Loop, step: int) -> Any:
            if step == stop - 1 and not came:
                came.append(step)
                os.kill(os.getpid(), signal.SIGTERM)
            return real(self, step)

        patch.setattr(Loop, "windows", windows)
        with pytest.raises(KeyboardInterrupt, match=f"stopped after step {stop}"):
            run_cpt(CptSettings(**options, out=str(tmp_path / "one")))
    run_cpt(CptSettings(**options, out=str(tmp_path / "one"), resume=True))
    names = [sorted(p.name for p in kept(tmp_path / name).iterdir()) for name in ("one", "whole")]
    assert names[0] == names[1] == ["step-00000006", "step-00000009", "step-00000010"]


@pytest.mark.parametrize("die_at", [1, 2, 5])  # at the first checkpoint, at a later one, at the output itself
def test_killed_while_one_is_written_and_resumed_is_the_same_bytes(
    tiny: Callable[..., Path], options: dict[str, Any], tmp_path: Path, die_at: int
) -> None:
    model = tiny("llama", "bfloat16", tie_word_embeddings=True, attention_dropout=0.1)
    options |= {"model": str(model), "regularize": ("l2_to_base",)}
    run_cpt(CptSettings(**options, out=str(tmp_path / "whole")))
    out = tmp_path / "killed"
    words = ["-c", PROGRAM, json.dumps(options | {"out": str(out)})]
    dead = warm.run(words, env=os.environ | {"DIE_AT": str(die_at)})
    assert dead.returncode == -signal.SIGKILL, dead.stderr
    assert not out.exists()
    complete = [p for p in kept(out).iterdir() if not p.name.startswith(".")]
    assert len(complete) == min(die_at - 1, 3) and all(verify(p)["holds"] for p in complete)

    done = run_cpt(CptSettings(**options, out=str(out), resume=True))
    assert (done.tokens_per_second is None) == (die_at == 5)  # nothing was left to do, at no speed
    assert tree(kept(out)) == tree(kept(tmp_path / "whole"))
    assert not [p for p in kept(out).iterdir() if p.name.startswith(".")]
    assert (out / "model.safetensors").read_bytes() == (tmp_path / "whole" / "model.safetensors").read_bytes()


def test_an_interrupt_while_one_is_written_leaves_nothing_of_it(
    options: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run_cpt(CptSettings(**options, out=str(tmp_path / "whole")))
    written: list[Path] = []

    def interrupted(folder: Path, *given: Any) -> dict[str, Any]:
        written.append(folder)
        if len(written) == 3:
            raise KeyboardInterrupt
        return {}

    out = tmp_path / "out"
    with monkeypatch.context() as patch:
        patch.setattr(train_folder, "_verify", interrupted)
        with pytest.raises(KeyboardInterrupt):
            run_cpt(CptSettings(**options, out=str(out)))
    assert written[-1].name == ".step-00000009.partial"
    assert sorted(p.name for p in kept(out).iterdir()) == ["step-00000003", "step-00000006"]
    latest = state.latest(kept(out).parent)
    assert latest is not None and latest.name == "step-00000006.pt"
    run_cpt(CptSettings(**options, out=str(out), resume=True))
    assert tree(kept(out)) == tree(kept(tmp_path / "whole"))


def test_an_interrupt_between_the_first_checkpoint_and_its_state(
    options: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def interrupted(*_: Any) -> None:
        raise KeyboardInterrupt

    out = tmp_path / "out"
    with monkeypatch.context() as patch:
        patch.setattr(state, "save", interrupted)
        with pytest.raises(KeyboardInterrupt):
            run_cpt(CptSettings(**options, out=str(out)))
    assert [p.name for p in kept(out).iterdir()] == ["step-00000003"]
    run_cpt(CptSettings(**options, out=str(out), resume=True))
    assert len(list(kept(out).iterdir())) == 3 and out.is_dir()


def test_an_interrupted_command_keeps_only_whole_ones(options: dict[str, Any], tmp_path: Path) -> None:
    words = ["-m", "surgeon", "cpt", options["model"], str(tmp_path / "one")]
    words += ["--data", options["data"][0], "--tokens", "400k", "--seq-len", "16", "--batch-tokens", "64"]
    words += ["--save-every", "1", "--keep-checkpoints", "2"]
    process = warm.Process(words)
    while not list(kept(tmp_path / "one").glob("step-*3")):
        assert process.poll() is None, process.communicate()
        time.sleep(0.01)
    process.send_signal(signal.SIGINT)
    _, err = process.communicate()
    assert process.returncode == 130 and "Traceback" not in err
    # one that was being removed has a hidden name; the next run removes the rest of it
    found = [p for p in kept(tmp_path / "one").iterdir() if not p.name.startswith(".")]
    assert 1 <= len(found) <= 3 and all(verify(p)["holds"] for p in found)


def test_a_resumed_run_may_keep_another_number(options: dict[str, Any], tmp_path: Path) -> None:
    out = tmp_path / "out"
    run_cpt(CptSettings(**options, out=str(out), keep_state=True))
    shutil.rmtree(out)
    run_cpt(CptSettings(**options | {"keep_checkpoints": 1}, out=str(out), resume=True))
    assert [p.name for p in kept(out).iterdir()] == ["step-00000010"]


def test_kept_checkpoints_are_not_lost_by_another_run(options: dict[str, Any], tmp_path: Path) -> None:
    out = tmp_path / "out"
    run_cpt(CptSettings(**options, out=str(out)))
    before = tree(kept(out))
    shutil.rmtree(out)
    for resume in (False, True):
        with pytest.raises(SurgeonError, match="of an earlier run to this output are kept") as refused:
            run_cpt(CptSettings(**options | {"seed": 3}, out=str(out), resume=resume))
        assert "--force" in refused.value.hint
    assert tree(kept(out)) == before
    # one of them as the model: it would be removed while it is read
    own = str(kept(out) / "step-00000006")
    with pytest.raises(SurgeonError, match="holds an input"):
        run_cpt(CptSettings(**options | {"model": own}, out=str(out)), force=True)
    assert tree(kept(out)) == before

    run_cpt(CptSettings(**options | {"seed": 3, "keep_checkpoints": None}, out=str(out)), force=True)
    assert not kept(out).parent.exists()


def test_what_is_not_ours_is_left_alone(options: dict[str, Any], tmp_path: Path) -> None:
    own = kept(tmp_path / "out") / "averaged" / "notes.txt"
    own.parent.mkdir(parents=True)
    own.write_text("mine")
    for force in (False, True):
        with pytest.raises(SurgeonError, match="something else"):
            run_cpt(CptSettings(**options, out=str(tmp_path / "out")), force=force)
    assert own.read_text() == "mine"


def test_checkpoints_of_an_adapter_are_refused(options: dict[str, Any], tmp_path: Path) -> None:
    settings = CptSettings(**options | {"train": "adapter"}, out=str(tmp_path / "out"))
    for attempt in (run_cpt, describe_cpt):
        with pytest.raises(UsageError, match="not the mean of BA"):
            attempt(settings)
    assert not list(tmp_path.glob("out*"))


def test_a_dry_run_says_what_will_be_kept(options: dict[str, Any], tmp_path: Path) -> None:
    found = describe_cpt(CptSettings(**options, out=str(tmp_path / "out")))
    assert [Path(p).name for p in found["checkpoints"]] == ["step-00000006", "step-00000009", "step-00000010"]
    assert found["checkpoint_bytes"] == 3 * Checkpoint.open(options["model"]).num_bytes
    assert "checkpoints" not in describe_cpt(CptSettings(**options | {"keep_checkpoints": None}, out="x"))

"""--in-place: the same model as in a new folder; after a kill at any step it is the old one or becomes the new one."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from test_identity import expanded, outputs
from test_kept_shards import sharded  # noqa: F401 - a fixture

from surgeon.checkpoint.header import read_header
from surgeon.checkpoint.index import INDEX, Checkpoint
from surgeon.checkpoint.insert_range import can_insert
from surgeon.checkpoint.journal import STAGE, WEIGHTS, is_between
from surgeon.errors import SurgeonError, UsageError
from surgeon.expand.plan import ExpandSettings, plan_expand
from surgeon.operations import perform
from surgeon.ops.in_place import execute_in_place, request_of
from surgeon.verify import verify

sys.path.insert(0, str(Path(__file__).resolve().parent.parent / "cli"))
from run_cli import surgeon


@pytest.fixture
def place(tmp_path: Path) -> Path:
    if not can_insert(tmp_path):
        pytest.skip("the file system of the temporary folder cannot insert ranges (ext4 and XFS can)")
    return tmp_path


def in_place(folder: Path, **options: object) -> dict[str, object]:
    settings = ExpandSettings(model=str(folder), out=folder, in_place=True, **options)
    return perform("expand-layers", settings)


def tensors(folder: Path) -> dict[str, torch.Tensor]:
    return {n: t for shard in Checkpoint.open(folder).shards for n, t in load_file(shard).items()}


def same(a: Path, b: Path) -> bool:
    left, right = tensors(a), tensors(b)
    return left.keys() == right.keys() and all(torch.equal(left[n], right[n]) for n in left)


@pytest.mark.parametrize("kind", ["single", "sharded"])
def test_it_is_the_model_that_a_new_folder_would_hold(
    stories: Path,
    sharded: Path,  # noqa: F811
    place: Path,
    kind: str,
) -> None:
    source = stories if kind == "single" else sharded
    shutil.copytree(source, place / "model")
    starts = {s.name: {t.name: t.start for t in read_header(s)[0].values()} for s in Checkpoint.open(source).shards}
    inodes = {s.stat().st_ino for s in Checkpoint.open(place / "model").shards}
    other = expanded(source, place / "other", at=[0, 2, 2])
    result = in_place(place / "model", at=[0, 2, 2])
    assert same(place / "model", other)
    for name in ["config.json", *([INDEX] if kind == "sharded" else [])]:
        assert (place / "model" / name).read_bytes() == (other / name).read_bytes()
    assert verify(place / "model")["holds"] and not (place / "model" / STAGE).exists()
    assert result["verified"]["in_place"]  # type: ignore[index]
    kept = {s.stat().st_ino for s in Checkpoint.open(place / "model").shards}
    assert inodes <= kept, "the old shards are the very files"
    assert starts
    if kind == "single":
        assert torch.equal(outputs(place / "model")[0], outputs(stories)[0])


def test_twice_and_back_in_another_folder(stories: Path, place: Path) -> None:
    from surgeon.ops.execute import execute

    model = place / "model"
    shutil.copytree(stories, model)
    in_place(model, at=[1])
    in_place(model, at=[0, 3])
    assert same(model, expanded(expanded(stories, place / "a", at=[1]), place / "b", at=[0, 3]))
    back = ExpandSettings(model=str(model), out=place / "back", undo=True)
    execute(plan_expand(back), place / "back")
    assert same(place / "back", place / "a")


@pytest.mark.parametrize("kind", ["single", "sharded"])
def test_undo_gives_the_original_bytes(
    stories: Path,
    sharded: Path,  # noqa: F811
    place: Path,
    kind: str,
) -> None:
    source, model, back = stories if kind == "single" else sharded, place / "model", place / "back"
    shutil.copytree(source, model)
    in_place(model, at=[0, 2])
    done = perform("expand-layers", ExpandSettings(model=str(model), out=back, undo=True))
    assert done["verified"]["original"] and verify(back, function=True)["holds"]
    assert {n: b for n, b in tree(back).items() if n != "surgeon.json"} == tree(source)


KILL = """
import os, signal, sys
from pathlib import Path
from surgeon.expand.plan import ExpandSettings, plan_expand
from surgeon.ops.in_place import execute_in_place, request_of, request_of
folder, last = Path(sys.argv[1]), int(sys.argv[2])
count = 0
def step(name):
    global count
    count += 1
    if count == last:
        print(name, flush=True)
        os.kill(os.getpid(), signal.SIGKILL)
settings = ExpandSettings(model=str(folder), out=folder, in_place=True, at=[0, 2])
execute_in_place(plan_expand(settings), request_of("expand-layers", settings), step=step)
"""


def killed(model: Path, last: int) -> str | None:
    """The name of the step at which a process that changes the model was killed, None where it has fewer."""
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    words = [sys.executable, "-c", KILL, str(model), str(last)]
    done = subprocess.run(words, capture_output=True, text=True, env=environment)
    if done.returncode == 0:
        return None
    assert done.returncode == -signal.SIGKILL, done.stderr
    return done.stdout.strip()


def tree(folder: Path) -> dict[str, bytes]:
    return {p.relative_to(folder).as_posix(): p.read_bytes() for p in sorted(folder.rglob("*")) if p.is_file()}


def library(folder: Path) -> dict[str, torch.Tensor] | None:
    """The model's tensors as transformers loads them without a look at its warnings; None where it refuses."""
    from transformers import AutoModelForCausalLM

    try:
        return dict(AutoModelForCausalLM.from_pretrained(folder).state_dict())
    except (OSError, ValueError):
        return None


def is_of(loaded: dict[str, torch.Tensor], folder: Path) -> bool:
    expected = library(folder)
    assert expected is not None
    return loaded.keys() == expected.keys() and all(torch.equal(loaded[n], expected[n]) for n in expected)


@pytest.mark.parametrize("kind", ["single", "sharded"])
def test_a_kill_at_any_step_leaves_the_old_or_makes_the_new(
    stories: Path,
    sharded: Path,  # noqa: F811
    place: Path,
    kind: str,
) -> None:
    """Every step of the journal in turn: what a library and the commands see then, and the command once more."""
    source = stories if kind == "single" else sharded
    wanted, model = place / "wanted" / "model", place / "killed" / "model"
    shutil.copytree(source, wanted)
    in_place(wanted, at=[0, 2])
    states = []
    for last in range(1, 100):
        shutil.rmtree(model, ignore_errors=True)
        shutil.copytree(source, model)
        step = killed(model, last)
        if step is None:
            break
        loaded = library(model)
        if is_between(model):
            states.append("between")
            assert loaded is None, step
            with pytest.raises(SurgeonError, match="was interrupted") as refused:
                Checkpoint.open(model)
            assert refused.value.hint == f"finish it: surgeon expand-layers {model} {model} --at 0,2 --in-place"
        else:
            states.append("old" if Checkpoint.open(model).tensors.keys() == tensors(source).keys() else "new")
            assert loaded is not None and is_of(loaded, source if states[-1] == "old" else wanted), step
        again = in_place(model, at=[0, 2]) if step != "done" else {"finished": ""}
        assert ("finished" in again) is (states[-1] != "old"), step
        if step != "done":
            assert tree(model) == tree(wanted), step
        assert same(model, wanted) and verify(model)["holds"]
    between = len(states) - 3
    assert states == ["old"] + ["between"] * between + ["new", "new"] and between > 8
    assert not [p for p in model.iterdir() if p.name.startswith(".")]


def test_every_command_says_what_was_interrupted(stories: Path, place: Path) -> None:
    model, corpus = place / "model", str(stories.parent / "general.valid.jsonl")
    shutil.copytree(stories, model)
    assert killed(model, 2) == "aside config.json"
    out, name = str(place / "out"), str(model)
    (place / "tokens.txt").write_text("hippopotamus\n")
    commands: list[list[str]] = [
        ["inspect", name],
        ["evaluate", name, "--data", corpus],
        ["verify", name],
        ["verify", name, "--function"],
        ["diff", name, str(stories)],
        ["expand-layers", name, out, "--add", "1"],
        ["expand-layers", name, out, "--undo"],
        ["extend-vocab", name, out, "--tokens", str(place / "tokens.txt")],
        ["cpt", name, out, "--data", corpus, "--tokens", "1k"],
        ["merge", "linear", out, f"{name}=1.0", f"{stories}=1.0"],
        ["merge-task-vectors", str(stories), out, "--add", f"{name}=1.0"],
        ["attach-adapter", name, out, "--rank", "4"],
    ]
    for words in commands:
        done = surgeon(*words)
        lines = done.err.strip().splitlines()[-3:]  # before them, what it was at
        assert done.code == 1, (words, done)
        assert "in its place was interrupted" in lines[0] and name in lines[1] and "--at 0,2 --in-place" in lines[2]
    done = surgeon("expand-layers", name, name, "--in-place", "--at", "0,2")
    assert done.code == 0 and "interrupted change" in done.out and verify(model)["holds"]


def test_another_request_is_refused_until_the_interrupted_one_is_finished(stories: Path, place: Path) -> None:
    for last, step in ((5, "grown model.safetensors"), (12, "new config.json")):
        model = place / f"model-{last}"
        shutil.copytree(stories, model)
        assert killed(model, last) == step
        before = tree(model)
        for words in (["--at", "5"], ["--at", "0,2", "--fill", "copy"], ["--add", "2"]):
            done = surgeon("expand-layers", str(model), str(model), "--in-place", *words)
            assert done.code == 1 and "another change" in done.err
            assert f"surgeon expand-layers {model} {model} --at 0,2 --in-place" in done.err
        assert tree(model) == before
        in_place(model, at=[0, 2])
        lineage = Checkpoint.open(model).lineage
        assert lineage is not None and lineage.blocks is not None and len(lineage.blocks.new) == 2


def test_the_request_is_written_as_it_is_typed(tmp_path: Path) -> None:
    settings = ExpandSettings(
        model="m",
        out=tmp_path,
        in_place=True,
        select="importance",
        add=2,
        probe="a b.jsonl",
        option={"rows": 3, "k": "v"},
    )
    words = "expand-layers --add 2 --select importance --probe|a b.jsonl|--option rows=3 --option k=v --in-place"
    first, path, rest = words.split("|")
    assert request_of("expand-layers", settings) == [*first.split(), path, *rest.split()]


def test_a_file_that_a_new_shard_would_replace_is_refused(sharded: Path, place: Path) -> None:  # noqa: F811
    model = place / "model"
    shutil.copytree(sharded, model)
    count = len(Checkpoint.open(model).shards) + 1
    stray = model / f"model-00001-of-{count:05d}.safetensors"
    shutil.copyfile(model / Checkpoint.open(model).shards[0].name, stray)
    before = tree(model)
    with pytest.raises(SurgeonError, match="is not the checkpoint's"):
        in_place(model, at=[1])
    assert tree(model) == before


def test_what_a_change_would_be_seen_through_is_refused(stories: Path, place: Path) -> None:
    linked = expanded(stories, place / "deep", at=[1])
    again = expanded(linked, place / "again", at=[5], link=True)
    for folder in (linked, again):
        before = tensors(folder)
        with pytest.raises(SurgeonError, match="second name"):
            in_place(folder, at=[0])
        assert tensors(folder).keys() == before.keys() and not (folder / STAGE).exists()
    pointed = place / "pointed"
    shutil.copytree(stories, pointed)
    (pointed / "model.safetensors").rename(place / "blob")
    (pointed / "model.safetensors").symlink_to(place / "blob")
    with pytest.raises(SurgeonError, match="is a link"):
        in_place(pointed, at=[0])


def test_choices_that_contradict_it_are_refused(stories: Path, place: Path) -> None:
    model = place / "model"
    shutil.copytree(stories, model)
    with pytest.raises(UsageError, match="OUT is another folder"):
        plan_expand(ExpandSettings(model=str(model), out=place / "out", in_place=True, at=[1]))
    for options in ({"link": True}, {"undo": True}, {"shard_bytes": 1000}):
        with pytest.raises(UsageError, match="contradict"):
            in_place(model, at=[1], **options)
    assert Checkpoint.open(model).digest == Checkpoint.open(stories).digest


def test_a_file_system_that_cannot_is_refused(stories: Path) -> None:
    shm = Path("/dev/shm")
    if not shm.is_dir() or can_insert(shm):
        pytest.skip("there is no file system here that cannot insert ranges")
    folder = shm / f"surgeon-test-{os.getpid()}"
    try:
        shutil.copytree(stories, folder)
        with pytest.raises(SurgeonError, match="cannot insert room"):
            in_place(folder, at=[1])
        assert Checkpoint.open(folder).digest == Checkpoint.open(stories).digest
    finally:
        shutil.rmtree(folder)


def test_the_journal_refuses_a_shard_that_something_else_changed(stories: Path, place: Path) -> None:
    model = place / "model"
    shutil.copytree(stories, model)

    def stop(name: str) -> None:
        if name.startswith("grown"):
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        settings = ExpandSettings(model=str(model), out=model, in_place=True, at=[1])
        execute_in_place(plan_expand(settings), request_of("expand-layers", settings), step=stop)
    assert is_between(model)
    with (model / STAGE / WEIGHTS / "0").open("ab") as file:
        file.write(b"xx")
    with pytest.raises(SurgeonError, match="the journal knows"):
        in_place(model, at=[1])

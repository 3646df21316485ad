"""Bad input of every kind: three lines on stderr, the right exit code, nothing at OUT."""

from __future__ import annotations

import json
import resource
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from run_cli import surgeon
from safetensors.torch import load_file, save_file


@pytest.fixture
def here(tmp_path: Path, stories: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    shutil.copytree(stories, tmp_path / "base")
    (tmp_path / "text.jsonl").write_text('{"text": "Once upon a time there was a little dog who ran."}\n' * 20)
    monkeypatch.chdir(tmp_path)
    return tmp_path


def refused(here: Path, code: int, *words: str, out: str = "out") -> str:
    before = (here / out).exists()
    done = surgeon(*words)
    assert done.code == code, (words, done.out, done.err)
    lines = done.err.rstrip("\n").split("\n")
    errors = lines[-3:]
    assert errors[0].startswith("error: ") and errors[1].startswith("where: ") and errors[2].startswith(" mend: "), (
        lines
    )
    assert all(len(line) > 7 for line in errors)
    assert "Traceback" not in done.err and done.out == ""
    assert (here / out).exists() == before
    assert not list(here.glob(".out*")) and not list(here.glob("out.run"))
    return done.err


def edit_config(folder: Path, **changes: object) -> None:
    path = folder / "config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))


EXPAND = ("expand-layers", "base", "out", "--add", "1")
CPT = ("cpt", "base", "out", "--data", "text.jsonl", "--tokens", "256", "--seq-len", "32", "--batch-tokens", "64")
SURGERY = (
    EXPAND,
    ("extend-vocab", "base", "out", "--corpus", "text.jsonl", "--add", "4"),
    ("attach-adapter", "base", "out"),
    CPT,
    ("merge-task-vectors", "base", "out", "--add", "base=0.5"),
)


@pytest.mark.parametrize("words", SURGERY, ids=lambda w: w[0])
def test_damaged_checkpoints(here: Path, words: tuple[str, ...]) -> None:
    shard = here / "base" / "model.safetensors"
    raw = shard.read_bytes()
    shard.write_bytes(raw[:-100])
    assert "damaged" in refused(here, 1, *words)
    shard.unlink()
    assert "model.safetensors" in refused(here, 1, *words)
    shard.write_bytes(raw)
    config = (here / "base" / "config.json").read_text()
    (here / "base" / "config.json").write_text(config[:-10])
    assert "not valid JSON" in refused(here, 1, *words)
    (here / "base" / "config.json").write_text(config)
    edit_config(here / "base", model_type="unheard_of", architectures=["UnheardOfForCausalLM"])
    assert "unheard" in refused(here, 1, *words).lower()


@pytest.mark.parametrize("words", SURGERY, ids=lambda w: w[0])
def test_an_index_that_names_an_absent_tensor(here: Path, words: tuple[str, ...]) -> None:
    base = here / "base"
    tensors = load_file(base / "model.safetensors")
    names = sorted(tensors)
    (base / "model.safetensors").unlink()
    save_file(tensors, base / "model-00001-of-00001.safetensors", metadata={"format": "pt"})
    weight_map = dict.fromkeys([*names, "model.ghost.weight"], "model-00001-of-00001.safetensors")
    (base / "model.safetensors.index.json").write_text(json.dumps({"weight_map": weight_map}))
    assert "ghost" in refused(here, 1, *words)


def test_shape_mismatch_between_config_and_weights(here: Path) -> None:
    edit_config(here / "base", intermediate_size=180)
    for words in (EXPAND, CPT):
        refused(here, 1, *words)


def test_existing_output(here: Path) -> None:
    (here / "out").mkdir()
    (here / "out" / "mine").write_text("1")
    for words in SURGERY:
        assert "exists already" in refused(here, 1, *words)
    assert (here / "out" / "mine").read_text() == "1"
    assert surgeon(*EXPAND, "--force").code == 0
    assert not (here / "out" / "mine").exists() and (here / "out" / "surgeon.json").exists()


@pytest.mark.parametrize(
    ("raw", "what"),
    [
        (b'{"text": "good"}\n{"text": "\xff\xfe"}\n', "UTF-8"),
        (b"", "no"),
        (b'{"text": ""}\n{"text": "  "}\n', "empty"),
        (b'{"text": "good"}\n{broken\n', "JSON"),
        (b'{"body": "no such field"}\n', "text"),
    ],
    ids=["utf8", "empty", "blank", "json", "field"],
)
def test_bad_corpora(here: Path, raw: bytes, what: str) -> None:
    (here / "text.jsonl").write_bytes(raw)
    for words in (CPT, SURGERY[1], ("evaluate", "base", "--data", "text.jsonl")):
        assert what in refused(here, 1, *words)


def test_absent_corpus_and_model(here: Path) -> None:
    words = [w if w != "text.jsonl" else "absent.jsonl" for w in CPT]
    assert "absent.jsonl" in refused(here, 1, *words)
    assert "absent" in refused(here, 1, "expand-layers", "absent", "out", "--add", "1")
    assert "no such folder" in refused(here, 1, "expand-layers", "", "out", "--add", "1")  # not the current one


def test_wrong_words(here: Path) -> None:
    assert "--add" in refused(here, 2, "expand-layers", "base", "out", "--ad", "1")
    refused(here, 2, "expand-layers", "base", "out", "--add", "many")
    refused(here, 2, "expand-layers", "base", "out", "--add", "-1")
    refused(here, 2, "expand-layers", "base")
    unknown = refused(here, 2, "expand-lairs", "base", "out")
    assert "Did you mean 'expand-layers'" in unknown and "`surgeon --help`" in unknown  # of no command there is none
    assert "`surgeon expand-layers --help`" in refused(here, 2, "expand-layers", "base", "out", "--ad", "1")
    assert "did you mean 'uniform'" in refused(here, 2, *EXPAND, "--select", "unifrom")
    assert "did you mean 'zero'" in refused(here, 2, *EXPAND, "--fill", "zeros")
    assert "option" in refused(here, 2, *EXPAND, "--option", "depth=3")
    refused(here, 2, *CPT, "--schedule", "cosinus")
    refused(here, 2, *CPT, "--set", "learning-rate=1")
    refused(here, 2, "methods", "fil")
    assert "did you mean 'reptile'" in refused(here, 2, "methods", "meta", "reptil")
    refused(here, 2, "recipes", "show", "quickstrat")


def test_one_value_of_two_is_not_called_absent(here: Path) -> None:
    assert "it takes 2 values (given: ['0.9'])" in refused(here, 2, *CPT, "--betas", "0.9")


def test_expand_out_of_range(here: Path) -> None:
    for words in (("--at", "5"), ("--at", "-1"), ("--add", "0"), ()):
        done = surgeon("expand-layers", "base", "out", *words)
        assert done.code in (1, 2) and not (here / "out").exists()
        assert done.err.count("\n") == 3


def test_pickles(here: Path) -> None:
    (here / "base" / "model.safetensors").rename(here / "base" / "pytorch_model.bin")
    assert "save_pretrained" in refused(here, 1, *EXPAND)


def test_full_disk_is_a_refusal(here: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The check before the first byte, with the free space that the system reports replaced by little."""
    import collections
    import shutil as system

    usage = collections.namedtuple("usage", "total used free")
    monkeypatch.setattr(system, "disk_usage", lambda path: usage(10**6, 10**6 - 1000, 1000))
    assert "disk" in refused(here, 1, *EXPAND)


def test_debug_adds_the_traceback(here: Path) -> None:
    done = surgeon("expand-layers", "absent", "out", "--add", "1", "--debug")
    assert done.code == 1 and "Traceback" in done.err


def test_a_model_that_gives_no_numbers_is_not_scored(here: Path) -> None:
    tensors = load_file(here / "base" / "model.safetensors")
    tensors["model.norm.weight"][0] = float("nan")
    save_file(tensors, here / "base" / "model.safetensors", metadata={"format": "pt"})
    assert "not a number" in refused(here, 1, "evaluate", "base", "--data", "text.jsonl", "--json")


def test_more_files_than_the_system_opens(here: Path) -> None:
    """Every input of a sum is open at one time, once for each thread."""
    tuned = [f"tuned{number}" for number in range(1, 60)]
    for number, name in enumerate(tuned, 1):
        shutil.copytree(here / "base", here / name)
        shard = here / name / "model.safetensors"
        save_file({key: value * (1 + number / 100) for key, value in load_file(shard).items()}, shard)
    limits = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (len(list(Path("/proc/self/fd").iterdir())) + 50, limits[1]))
    try:
        added = [word for name in tuned for word in ("--add", f"{name}=0.01")]
        said = refused(here, 1, "merge-task-vectors", "base", "out", *added)
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, limits)
    assert "Too many open files" in said and "ulimit -n" in said


def test_a_full_disk_is_no_matter_of_permissions(here: Path) -> None:
    with Path("/dev/full").open("w") as full:
        words = [sys.executable, "-m", "surgeon", "inspect", "base"]
        done = subprocess.run(words, stdout=full, stderr=subprocess.PIPE, text=True)
    assert done.returncode == 1
    assert "No space left" in done.stderr and " mend: make room there" in done.stderr


def test_a_plan_is_not_both_shown_and_saved(here: Path) -> None:
    said = refused(here, 2, "expand-layers", "base", "out", "--add", "1", "--dry-run", "--plan", "plan.json")
    assert "--dry-run writes nothing" in said and not (here / "plan.json").exists()


@pytest.mark.parametrize("raw", ["title: a recipe\n", "[1]\n", "{}\n"])
def test_what_is_no_plan_is_not_called_a_damaged_model(here: Path, raw: str) -> None:
    (here / "plan.json").write_text(raw)
    said = refused(here, 2, "apply", "plan.json", "out")
    assert "not a plan" in said and "--plan" in said and "model" not in said


@pytest.mark.parametrize(
    ("words", "problem"),
    [
        (("--untie",), "matrices are not tied"),
        (("--probe", "absent.jsonl"), "no such corpus"),
        (("--keep-corpus", "absent.jsonl"), "no such corpus"),
        (("--probe", "text.jsonl", "--probe", "base"), "holds no corpus file"),
    ],
)
def test_an_extension_is_refused_before_it_learns(
    here: Path, monkeypatch: pytest.MonkeyPatch, words: tuple[str, ...], problem: str
) -> None:
    from surgeon.vocab import plan

    tensors = load_file(here / "base" / "model.safetensors")
    tensors["lm_head.weight"] = tensors["model.embed_tokens.weight"] + 1
    save_file(tensors, here / "base" / "model.safetensors", metadata={"format": "pt"})
    edit_config(here / "base", tie_word_embeddings=False)
    learned: list[str] = []
    monkeypatch.setattr(plan, "_learned", lambda *_: learned.append("all of it"))
    said = refused(
        here, 2 if problem.startswith("matrices") else 1, "extend-vocab", "base", "out", "--corpus", "text.jsonl",
        "--add", "4", *words,
    )  # fmt: skip
    assert problem in said and learned == []


def test_a_folder_in_a_files_place(here: Path) -> None:
    assert "give a file in place of the folder" in refused(here, 1, "apply", "base", "out")

"""Out to a hub and back: huggingface_hub itself, against a hub on this machine."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from hub_server import Hub, serving

from surgeon.card.write import made_card
from surgeon.checkpoint.lineage import dump_lineage, read_lineage
from surgeon.errors import SurgeonError, UsageError
from surgeon.expand.plan import ExpandSettings, plan_expand
from surgeon.hub.upload import prepare, published
from surgeon.ops.execute import execute
from surgeon.words import plain, without_folders


@pytest.fixture(scope="module")
def hub() -> Iterator[Hub]:
    with serving() as hub:
        yield hub


@pytest.fixture(scope="module")
def deep(stories: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("hub") / "deep"
    execute(plan_expand(ExpandSettings(model=str(stories), out=out, add=1)), out)
    return out


def surgeon(hub: Hub, home: Path, *words: str, token: str = "hf_any") -> tuple[int, Any, str]:
    """In a process of its own: the library reads the address of the hub when it is imported."""
    env = {k: v for k, v in os.environ.items() if k not in ("HF_HUB_OFFLINE", "HF_TOKEN")}
    env |= {"HF_ENDPOINT": hub.url, "HF_HUB_DISABLE_XET": "1", "HF_HOME": str(home), "HF_HUB_DISABLE_TELEMETRY": "1"}
    env |= {"HF_TOKEN": token} if token else {}
    command = [sys.executable, "-m", "surgeon", *words, "--json"]
    run = subprocess.run(command, capture_output=True, text=True, env=env, check=False)
    return run.returncode, json.loads(run.stdout) if run.stdout else None, run.stderr


def test_what_went_out_comes_back_and_holds(hub: Hub, deep: Path, tmp_path: Path) -> None:
    code, told, err = surgeon(hub, tmp_path / "home", "push", str(deep), "me/deep", "--private")
    assert code == 0, err
    repo = hub.repos["me/deep"]
    assert repo.private and told["commit"] == repo.branches["main"] and repo.summaries[-1] == "surgeon expand-layers"
    here = {p.relative_to(deep).as_posix(): p.read_bytes() for p in deep.rglob("*") if p.is_file()}
    there = {name: content for name, content in repo.files().items() if name != ".gitattributes"}
    assert there.keys() == here.keys() and told["files"] == len(here)
    assert {n: c for n, c in there.items() if n != "surgeon.json"} == {
        n: c for n, c in here.items() if n != "surgeon.json"
    }
    assert "../model" in there["surgeon.json"].decode() and "recipes" not in there["surgeon.json"].decode()
    code, told, err = surgeon(hub, tmp_path / "home", "verify", "me/deep")
    assert code == 0 and told["holds"], err
    code, told, err = surgeon(
        hub, tmp_path / "home", "expand-layers", "me/deep", str(tmp_path / "deeper"), "--add", "1"
    )
    assert code == 0, err
    lineage = read_lineage(tmp_path / "deeper")
    assert lineage is not None and lineage.parents[0].name == "me/deep"
    assert lineage.parents[0].revision == repo.branches["main"]
    card = (tmp_path / "deeper" / "README.md").read_text()
    assert "base_model:\n- me/deep\n" in card and "base_model_relation: finetune" in card


def test_an_adapter_names_the_repository_and_the_branch(hub: Hub, deep: Path, tmp_path: Path) -> None:
    out = str(tmp_path / "out")
    for words in (["push", str(deep), "me/base"], ["attach-adapter", "me/base@main", out, "--rank", "2"]):
        code, _, err = surgeon(hub, tmp_path / "home", *words)
        assert code == 0, err
    config = json.loads((tmp_path / "out" / "adapter_config.json").read_text())
    assert (config["base_model_name_or_path"], config["revision"]) == ("me/base", "main")
    code, _, err = surgeon(hub, tmp_path / "home", "push", out, "me/adapter")
    assert code == 0, err
    card = hub.repos["me/adapter"].files()["README.md"].decode()
    assert "base_model:\n- me/base\n" in card and "base_model_relation: adapter" in card


def test_a_repository_that_holds_files_is_replaced_as_a_whole_or_not_at_all(
    hub: Hub, deep: Path, tmp_path: Path
) -> None:
    repo = hub.make("me/full", files={"model-00001-of-00002.safetensors": b"old", "config.json": b"{}"})
    before = repo.branches["main"]
    code, _, err = surgeon(hub, tmp_path, "push", str(deep), "me/full")
    assert code == 1 and "holds 2 files already" in err and repo.branches["main"] == before
    code, told, err = surgeon(hub, tmp_path, "push", str(deep), "me/full", "--force", "--message", "again")
    assert code == 0, err
    assert told["removed"] == ["model-00001-of-00002.safetensors"] and repo.summaries == ["initial", "again"]
    assert set(repo.files()) == {".gitattributes", *prepare(deep, "me/full").files}
    code, told, err = surgeon(hub, tmp_path, "push", str(deep), "me/full", "--revision", "second")
    assert code == 0, err  # a branch of its own needs no --force
    assert repo.files("second") == repo.files("main") and told["revision"] == "second"


def test_what_the_hub_refuses_is_three_lines_and_changes_nothing(hub: Hub, deep: Path, tmp_path: Path) -> None:
    hub.make("me/public")
    code, _, err = surgeon(hub, tmp_path, "push", str(deep), "me/public", "--private")
    assert code == 1 and "is public" in err
    code, _, err = surgeon(hub, tmp_path, "push", str(deep), "me/nobody", token="")
    assert code == 1 and "HF_TOKEN" in err and err.count("\n") == 3
    hub.broken = 403
    try:
        code, _, err = surgeon(hub, tmp_path, "push", str(deep), "me/public")
    finally:
        hub.broken = 0
    assert code == 1 and "the hub did not take it" in err and err.count("\n") == 3
    assert hub.repos["me/public"].summaries == ["initial"]


def test_only_what_was_written_goes_out(deep: Path, tmp_path: Path) -> None:
    folder = tmp_path / "deep"
    shutil.copytree(deep, folder)
    (folder / "notes.txt").write_text("mine")
    (folder / "README.md").write_text("---\nlicense: mit\n---\nedited")
    found = prepare(folder, "me/deep")
    assert found.left == ("notes.txt",) and found.files["README.md"] == folder / "README.md"
    (folder / "README.md").unlink()
    assert prepare(folder, "me/deep").files["README.md"] == (deep / "README.md").read_bytes()
    raw = bytearray((folder / "model.safetensors").read_bytes())
    raw[-1] ^= 1
    (folder / "model.safetensors").write_bytes(raw)
    with pytest.raises(SurgeonError, match=r"this is not what was written: bytes of model\.safetensors"):
        prepare(folder, "me/deep")
    (folder / "surgeon.json").unlink()
    with pytest.raises(SurgeonError, match="nothing says what this folder should hold"):
        prepare(folder, "me/deep")
    for name in ("deep", "a/b/c", "me/de ep", ""):
        with pytest.raises(UsageError):
            prepare(deep, name)


@pytest.mark.parametrize(
    ("text", "kept"),
    [
        ("/home/me/texts/", "texts/"), ("../client/x.jsonl", "x.jsonl"), ("n=~/secret/x.jsonl:0.5", "n=x.jsonl:0.5"),
        ("~me/a/b", "b"), ("./a/b", "b"), ("n=../../a/b", "n=b"), ("org/name", "org/name"), ("/x", "/x"), ("..", ".."),
        ("clients/x.jsonl", "x.jsonl"), ("n=clients/a b/x.txt.gz:0.5", "n=x.txt.gz:0.5"),
        ("hf:org/x.json", "hf:org/x.json"),
        ("https://x.org/a.txt", "https://x.org/a.txt"), ("org/name.v2", "org/name.v2"),
        ("a=1/2", "a=1/2"), ("1,attention:0,0.5", "1,attention:0,0.5"),
    ],
)  # fmt: skip
def test_of_a_path_the_last_name_is_kept(text: str, kept: str) -> None:
    assert without_folders([text]) == [kept] and plain([text]) == kept


def test_what_lies_here_is_a_path_and_no_name_of_a_hub(
    deep: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    for place in ("clients/texts", "org/base", "org/tuned"):
        (tmp_path / place).mkdir(parents=True)
    folder = tmp_path / "deep"
    shutil.copytree(deep, folder)
    lineage = read_lineage(folder)
    assert lineage is not None
    of_hub = lineage.parents[0].model_copy(update={"name": "org/base@v1", "revision": "0" * 40, "lineage": lineage})
    settings = {
        "data": ["clients/texts", "n=clients/texts:0.5", "org/gone"],
        "on": {"a": "org/base", "b": "org/tuned"},
    }
    placed = lineage.model_copy(update={"settings": settings, "parents": [of_hub]})
    hidden = {"data": ["texts", "n=texts:0.5", "org/gone"], "on": {"a": "org/base", "b": "tuned"}}
    assert published(placed).settings == hidden
    (folder / "surgeon.json").write_text(dump_lineage(placed))
    (folder / "README.md").write_text(made_card(folder, folder, placed))
    files = prepare(folder, "me/deep").files
    card = files["README.md"]
    assert isinstance(card, bytes) and b"clients" not in card and b"texts" in card


def test_places_on_this_machine_stay_here(deep: Path) -> None:
    lineage = read_lineage(deep)
    assert lineage is not None
    placed = lineage.model_copy(update={"settings": {"corpus": ["/home/me/a.jsonl", "x=/data/b.txt:0.5"], "add": 1}})
    found = published(placed)
    assert found.settings == {"corpus": ["a.jsonl", "x=b.txt:0.5"], "add": 1}
    assert [parent.path for parent in found.parents] == ["../model"]
    assert found.model_copy(update={"parents": lineage.parents, "settings": lineage.settings}) == lineage

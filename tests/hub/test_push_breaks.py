"""Pushes that break off, meet a repository that is not as it was left, or hold what a hub must not be told."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest
from hub_server import PREFIX, Hub, serving
from test_push import deep as deep
from test_push import surgeon

from surgeon.adapters.attach import AttachSettings, plan_attach
from surgeon.card.front import read_front
from surgeon.errors import SurgeonError, UsageError
from surgeon.hub.upload import prepare
from surgeon.model_ref import name_and_revision
from surgeon.ops.execute import execute
from surgeon.verify import verify


@pytest.fixture
def hub() -> Iterator[Hub]:
    with serving() as hub:
        yield hub


def test_a_branch_without_its_commit_does_not_stay(hub: Hub, deep: Path, tmp_path: Path) -> None:
    hub.make("me/deep", files={"config.json": b"{}"})
    words = ("push", str(deep), "me/deep", "--revision", "second")
    hub.broken = 400
    code, _, err = surgeon(hub, tmp_path, *words)
    assert code == 1 and "run it again" in err and list(hub.repos["me/deep"].branches) == ["main"]
    hub.broken, sent = 0, hub.puts
    code, _, err = surgeon(hub, tmp_path, *words)  # as the hint says, and without --force
    assert code == 0 and hub.puts == sent, err
    assert set(hub.repos["me/deep"].files("second")) == {".gitattributes", *prepare(deep, "me/deep").files}


@pytest.mark.parametrize("revision", ["main", "second"])
def test_what_the_repository_ignores_goes_out_all_the_same(
    hub: Hub, deep: Path, tmp_path: Path, revision: str
) -> None:
    repo = hub.make("me/deep", files={".gitignore": b"*.safetensors\nREADME.md\n"})
    code, _, err = surgeon(hub, tmp_path, "push", str(deep), "me/deep", "--force", "--revision", revision)
    assert code == 0, err
    assert set(repo.files(revision)) == {".gitattributes", *prepare(deep, "me/deep").files}


def test_a_repository_of_another_name_now_and_a_hub_below_a_path(hub: Hub, deep: Path, tmp_path: Path) -> None:
    hub.make("me/new")
    hub.moved["me/old"] = "me/new"
    hub.url += f"/{PREFIX}"
    code, told, err = surgeon(hub, tmp_path, "push", str(deep), "me/old")
    assert code == 0, err
    assert told["repo"] == "me/new" and told["url"] == f"{hub.url}/me/new"


def test_a_gated_repository_is_not_made_again(hub: Hub, deep: Path, tmp_path: Path) -> None:
    hub.gated.add("me/gated")
    code, _, err = surgeon(hub, tmp_path, "push", str(deep), "me/gated")
    assert code == 1 and "HF_TOKEN" in err and not hub.repos


def test_a_download_that_is_cut_is_told_in_three_lines(hub: Hub, deep: Path, tmp_path: Path) -> None:
    assert surgeon(hub, tmp_path, "push", str(deep), "me/deep")[0] == 0
    hub.cut.add("tokenizer.json")
    code, _, err = surgeon(hub, tmp_path, "inspect", "me/deep")
    assert code == 1 and "the hub does not give" in err and "unexpected" not in err
    for name in ("me/de--ep", "me/deep.git", "me/deep@"):
        code, _, err = surgeon(hub, tmp_path, "inspect", name)
        assert code in (1, 2) and "unexpected" not in err, err


def test_what_is_fetched_of_a_model(hub: Hub, deep: Path, tmp_path: Path) -> None:
    files = {p.name: p.read_bytes() for p in deep.iterdir() if p.is_file()}
    second = ("consolidated.safetensors", "original/a.safetensors", "checkpoint-500/model.safetensors", "x.bin")
    hub.make("me/deep", files=files | {"surgeon/a.svg": b"a", "NOTICE": b"b"} | dict.fromkeys(second, b"c"))
    code, _, err = surgeon(hub, tmp_path, "inspect", "me/deep")
    assert code == 0, err
    (snapshot,) = tmp_path.glob("hub/models--me--deep/snapshots/*")
    fetched = {p.relative_to(snapshot).as_posix() for p in snapshot.rglob("*") if p.is_file()}
    assert fetched == {*files, "surgeon/a.svg", "NOTICE"}


def test_other_libraries_are_told_where_a_home_is(deep: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", str(deep.parent))
    assert name_and_revision("~/deep") == (str(deep), None)
    assert name_and_revision("org/deep@v1") == ("org/deep", "v1")


def test_a_head_that_is_no_yaml_is_told_before_anything_is_sent(deep: Path, tmp_path: Path) -> None:
    folder = tmp_path / "deep"
    shutil.copytree(deep, folder)
    for head in ("a: [", "- a"):
        (folder / "README.md").write_text(f"---\n{head}\n---\n")
        with pytest.raises(SurgeonError, match="the head of the card"):
            prepare(folder, "me/deep")
    (folder / "README.md").write_text("no head at all")
    prepare(folder, "me/deep")


@pytest.mark.parametrize("kind", ["lora", "pissa"])
def test_an_adapter_of_a_folder_is_given_the_name_of_its_base(
    deep: Path, tmp_path: Path, kind: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(deep.parent.parent)
    given = f"{deep.parent.name}/deep"  # called as a model of a hub is
    out = tmp_path / "adapter"
    execute(plan_attach(AttachSettings(model=given, out=out, kind=kind, rank=2)), out)
    with pytest.raises(UsageError, match="by a place on this machine"):
        prepare(out, "me/adapter")
    with pytest.raises(UsageError, match="no name of a model"):
        prepare(out, "me/adapter", base=str(deep))
    with pytest.raises(UsageError, match="no adapter"):
        prepare(deep, "me/deep", base="me/base")
    files = prepare(out, "me/adapter", base="me/deep@v1").files
    there = tmp_path / "there"
    for name, held in files.items():
        (there / name).parent.mkdir(parents=True, exist_ok=True)
        (there / name).write_bytes(held if isinstance(held, bytes) else held.read_bytes())
    configs = list(there.rglob("adapter_config.json"))
    assert len(configs) == (2 if kind == "pissa" else 1)
    for config in configs:
        told = json.loads(config.read_text())
        assert (told["base_model_name_or_path"], told["revision"]) == ("me/deep", "v1")
    assert verify(there)["holds"]
    assert read_front(there)["base_model"] == ["me/deep"]
    assert "base_model" not in read_front(out)
    again = prepare(there, "me/again").files  # its base is one of the hub now
    assert again["README.md"] == there / "README.md"
    assert not any(deep.parent.name.encode() in path.read_bytes() for path in there.rglob("*") if path.is_file())

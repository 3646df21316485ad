"""Pushes whose answers are lost, late or put off, or that are killed on the way."""

from __future__ import annotations

import os
import pty
import select
import signal
import subprocess
import sys
import termios
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from hub_server import Hub, serving
from test_push import deep as deep
from test_push import surgeon

from surgeon.hub.upload import prepare


@pytest.fixture
def hub() -> Iterator[Hub]:
    with serving() as hub:
        yield hub


def _env(hub: Hub, home: Path) -> dict[str, str]:
    kept = {k: v for k, v in os.environ.items() if not k.startswith("HF_")}
    return kept | {"HF_ENDPOINT": hub.url, "HF_HUB_DISABLE_XET": "1", "HF_HOME": str(home), "HF_TOKEN": "hf_any"}


@pytest.mark.parametrize("revision", ["main", "second"])
def test_a_commit_whose_answer_is_lost_is_found(hub: Hub, deep: Path, tmp_path: Path, revision: str) -> None:
    repo = hub.make("me/deep")
    hub.lost = 1
    code, told, err = surgeon(hub, tmp_path, "push", str(deep), "me/deep", "--revision", revision)
    assert code == 0, err
    assert told["sent"] and told["commit"] == repo.branches[revision]
    assert repo.summaries == ["initial", "surgeon expand-layers"]


def test_what_is_there_already_is_not_sent_again(hub: Hub, deep: Path, tmp_path: Path) -> None:
    words = ("push", str(deep), "me/deep")
    code, first, err = surgeon(hub, tmp_path, *words)
    assert code == 0 and first["sent"], err
    repo, puts = hub.repos["me/deep"], hub.puts
    for more in ((), ("--force",), ("--revision", "main")):
        code, told, err = surgeon(hub, tmp_path, *words, *more)
        assert code == 0 and told == first | {"sent": False}, err
        assert "nothing was sent" in err and hub.puts == puts and len(repo.summaries) == 2
    files = repo.files()
    same_size = files["config.json"].replace(b"1", b"2", 1)
    for name, content in (("config.json", same_size), ("model.safetensors", b"x"), ("more.txt", b"y")):
        repo.commit("main", files | {name: content}, "other")
        assert surgeon(hub, tmp_path, *words)[0] == 1
    repo.commit("main", {k: v for k, v in files.items() if k != "tokenizer.json"}, "fewer")
    assert surgeon(hub, tmp_path, *words)[0] == 1


def test_a_hub_that_asks_to_wait(hub: Hub, deep: Path, tmp_path: Path) -> None:
    hub.busy, hub.wait = {"commit": 1}, "37"
    code, _, err = surgeon(hub, tmp_path, "push", str(deep), "me/deep", "--revision", "b")
    assert code == 1 and "wait 37 seconds, then run it again" in err and err.count("\n") == 3
    assert list(hub.repos["me/deep"].branches) == ["main"]
    hub.sent.clear()
    hub.busy, hub.wait = {"put": 1}, "0"
    code, told, err = surgeon(hub, tmp_path, "push", str(deep), "me/deep", "--quiet")
    assert code == 0 and told["sent"] and not err


def test_a_hub_that_is_slow(hub: Hub, deep: Path, tmp_path: Path) -> None:
    """The library waits for ten seconds; here for less."""
    hub.slow = 2.5
    patient = "import huggingface_hub.constants as c; c.DEFAULT_REQUEST_TIMEOUT = 1; "
    start = patient + "from surgeon.cli.app import main; main()"
    command = [sys.executable, "-c", start, "push", str(deep), "me/deep", "--quiet", "--json"]
    env = _env(hub, tmp_path) | {"HF_HUB_DISABLE_PROGRESS_BARS": "1"}  # the library is there before the command is
    run = subprocess.run(command, capture_output=True, text=True, env=env, check=False)
    assert run.returncode == 0 and '"sent": true' in run.stdout and not run.stderr, run.stderr
    assert hub.repos["me/deep"].summaries == ["initial", "surgeon expand-layers"]


@pytest.mark.parametrize("kind", [signal.SIGKILL, signal.SIGTERM, signal.SIGINT])
def test_killed_in_the_middle_of_a_file(hub: Hub, deep: Path, tmp_path: Path, kind: signal.Signals) -> None:
    hub.make("me/deep")
    hub.stuck = True
    words = ("push", str(deep), "me/deep", "--revision", "second")
    process = subprocess.Popen(
        [sys.executable, "-m", "surgeon", *words], stderr=subprocess.PIPE, text=True, env=_env(hub, tmp_path)
    )
    assert hub.begun.wait(60)
    process.send_signal(kind)
    _, err = process.communicate(timeout=60)
    assert process.returncode == (-9 if kind == signal.SIGKILL else 130) and "Traceback" not in err
    assert kind == signal.SIGKILL or err.count("interrupted") == 1
    assert list(hub.repos["me/deep"].branches) == ["main"] and not hub.sent
    hub.stuck = False
    code, told, err = surgeon(hub, tmp_path, *words)
    assert code == 0 and told["sent"], err
    assert set(hub.repos["me/deep"].files("second")) == {".gitattributes", *prepare(deep, "me/deep").files}


@pytest.mark.parametrize("more", [(), ("--json",), ("--quiet",)])
def test_bars_of_the_library_are_shown_to_people_alone(
    hub: Hub, deep: Path, tmp_path: Path, more: tuple[str, ...]
) -> None:
    files = {p.name: p.read_bytes() for p in deep.iterdir() if p.is_file()}
    hub.make("me/there", files=files)
    for words in (("inspect", "me/there"), ("push", str(deep), "me/deep")):
        screen = _on_a_terminal([sys.executable, "-m", "surgeon", *words, *more], _env(hub, tmp_path))
        assert (b"%|" in screen) == (not more), screen
        assert not screen or "--quiet" not in more


def _on_a_terminal(command: list[str], env: dict[str, str]) -> bytes:
    """What stderr shows there."""
    ours, theirs = pty.openpty()
    termios.tcsetwinsize(theirs, (40, 120))
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=theirs, env=env)
    os.close(theirs)
    screen, until = b"", time.monotonic() + 120
    while time.monotonic() < until and select.select([ours], [], [], 120)[0]:
        try:
            screen += os.read(ours, 1 << 16)
        except OSError:  # nobody has the other end any more
            break
    assert process.wait(60) == 0
    os.close(ours)
    return screen

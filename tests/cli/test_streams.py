"""The command with streams that are closed, or whose encoding does not have every letter."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from surgeon.errors import SurgeonError
from surgeon.model_ref import resolve

SURGEON = f'"{sys.executable}" -m surgeon'


def shell(line: str, folder: Path, **environment: str) -> subprocess.CompletedProcess[bytes]:
    given = os.environ | environment
    return subprocess.run(["/bin/sh", "-c", line], cwd=folder, env=given, capture_output=True, check=False)


@pytest.fixture
def here(tmp_path: Path, stories: Path) -> Path:
    shutil.copytree(stories, tmp_path / "modèle")
    (tmp_path / "text.txt").write_text("Once upon a time there was a little dog.")
    return tmp_path


@pytest.mark.parametrize("closed", [">&-", "2>&-", "<&-", "<&- >&- 2>&-"])
def test_closed_streams_change_nothing(here: Path, closed: str) -> None:
    done = shell(f"{SURGEON} expand-layers modèle out --add 1 {closed}", here)
    assert done.returncode == 0, done.stderr
    assert (here / "out" / "surgeon.json").is_file() and b"unexpected" not in done.stderr
    refused = shell(f"{SURGEON} inspect absent {closed}", here)
    assert refused.returncode == 1 and b"unexpected" not in refused.stderr


@pytest.mark.parametrize("encoding", ["ascii", "latin-1", "cp1252", "utf-8"])
def test_json_is_json_in_any_encoding(here: Path, encoding: str) -> None:
    words = "evaluate modèle --data été語=text.txt --json --quiet"
    done = shell(f"{SURGEON} {words}", here, PYTHONIOENCODING=encoding)
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout.decode(encoding))["models"][0]
    assert found["model"] == "modèle" and found["corpora"][0]["name"] == "été語"


def test_tables_are_printed_in_any_encoding(here: Path) -> None:
    done = shell(f"{SURGEON} evaluate modèle --data été語=text.txt --quiet", here, PYTHONIOENCODING="ascii")
    assert done.returncode == 0, done.stderr
    assert rb"mod\xe8le" in done.stdout and rb"\xe9t\xe9\u8a9e" in done.stdout


def test_a_path_that_is_no_text_is_refused_by_name(tmp_path: Path, stories: Path) -> None:
    name = os.fsdecode(b"m\xff")
    shutil.copytree(stories, tmp_path / name)
    with pytest.raises(SurgeonError, match="the path is not text"):
        resolve(str(tmp_path / name))
    done = shell(f"{SURGEON} expand-layers {name} out --add 1", tmp_path)
    assert done.returncode == 1 and b"the path is not text" in done.stderr and not (tmp_path / "out").exists()

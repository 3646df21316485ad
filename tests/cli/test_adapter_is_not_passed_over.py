"""Commands that read the bytes of one folder do not answer for a model with an adapter."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
from run_cli import surgeon


@pytest.fixture
def adapted(tmp_path: Path, stories: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    shutil.copytree(stories, tmp_path / "base")
    monkeypatch.chdir(tmp_path)
    assert surgeon("expand-layers", "base", "deep", "--add", "1", "--quiet").code == 0
    assert surgeon("attach-adapter", "deep", "adapter", "--rank", "2", "--quiet").code == 0
    return "deep+adapter"


def test_every_command_says_so(adapted: str) -> None:
    for words in (
        ("diff", "deep", adapted, "--json"),
        ("diff", adapted, "deep", "--json"),
        ("verify", adapted, "--json"),
        ("verify", "deep", "--parent", adapted, "--json"),
        ("report", "deep", "--data", "base", "--parent", adapted, "--json"),
        ("report", "deep", "--data", "base", "--after", adapted, "--json"),
    ):
        done = surgeon(*words)
        assert done.code == 2 and done.out == "", (words, done)
        assert "the adapter would be passed over" in done.err and "fold-adapter" in done.err
        assert len(done.err.rstrip("\n").split("\n")) == 3
    assert surgeon("diff", "deep", "deep").code == 0 and surgeon("verify", "adapter").code == 0

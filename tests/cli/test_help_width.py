"""--help cuts no word off, however narrow the terminal is."""

from __future__ import annotations

import re

import pytest
from run_cli import surgeon


@pytest.mark.parametrize("width", ["40", "60", "80", "120"])
@pytest.mark.parametrize("command", ["cpt", "extend-vocab", "evaluate", "merge"])
def test_nothing_is_cut(command: str, width: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", width)
    told = surgeon(command, "--help").out
    assert "…" not in told and "Examples:" in told


def test_names_of_options_stay_in_one_piece(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "60")
    told = surgeon("cpt", "--help").out
    for name in ("--keep-checkpoints", "--trust-remote-code", "--stop-on-divergence", "--replay-ratio"):
        assert re.search(rf"{name}\b", told), name

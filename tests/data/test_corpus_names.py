"""A corpus may be named in any script, and a recipe knows by its name which file is behind it."""

from __future__ import annotations

from pathlib import Path

import pytest

from surgeon.data.source import parse_corpus
from surgeon.errors import SurgeonError
from surgeon.run import fingerprint

NAMES = ["general", "été", "医学", "தமிழ்", "हिन्दी", "e\u0301tude", "Ω-1.2_3"]


@pytest.mark.parametrize("name", NAMES)
def test_a_name_in_any_script(tmp_path: Path, name: str) -> None:
    path = tmp_path / "a.txt"
    path.write_text("Once upon a time")
    found = parse_corpus(f"{name}={path}:0.5")
    assert (found.name, found.weight) == (name, 0.5)
    before = [fingerprint(text) for text in (f"{name}={path}", f"{name}={path}:0.5")]
    path.write_text("There was a dog")
    assert all(
        a != fingerprint(text) for a, text in zip(before, (f"{name}={path}", f"{name}={path}:0.5"), strict=True)
    )


@pytest.mark.parametrize("name", ["", "<u>", "a b", ".hidden", "-x", "a/b"])
def test_other_texts_are_no_names(tmp_path: Path, name: str) -> None:
    (tmp_path / "a.txt").write_text("Once upon a time")
    with pytest.raises(SurgeonError, match="no such corpus"):
        parse_corpus(f"{name}={tmp_path / 'a.txt'}")

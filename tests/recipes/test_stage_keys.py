"""What a stage is done again for: the key of a stage has the bytes of all that its words name."""

from __future__ import annotations

from pathlib import Path

import pytest

from surgeon.run import fingerprint


def test_keys_follow_what_options_and_weights_that_vary_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Another corpus or model in the place of the one that was read is another stage."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "model").mkdir()
    (tmp_path / "far").mkdir()
    (tmp_path / "texts").mkdir()
    (tmp_path / "texts" / "linked").symlink_to(tmp_path / "far")
    (tmp_path / "texts" / "circle").symlink_to(tmp_path / "texts")
    texts = [tmp_path / "model" / "config.json", tmp_path / "old.jsonl", tmp_path / "far" / "a.jsonl"]
    values = [
        "model=-1",
        "model=0.5,attention:0,1,mlp:0.3",
        "ewc:probe=old.jsonl,strength=2",
        "ewc:strength=2,probe=n=old.jsonl",
        "texts",
    ]
    seen = []
    for content in ("one", "two"):
        for text in texts:
            text.write_text(content)
        seen.append(fingerprint(values))
    assert all(before != after for before, after in zip(*seen, strict=True)), seen
    assert seen[0][2].startswith("ewc:probe=sha256:") and seen[0][2].endswith(",strength=2")
    plain = ["0.5:general=1,domain=3", "embed:lr=0.1,weight_decay=0", "wsd:decay=0.2", "absent=-1"]
    assert fingerprint(plain) == plain


def test_a_plus_in_the_name_of_an_adapter_is_no_second_one(tmp_path: Path) -> None:
    seen = []
    for name in ("base", "a+b"):
        (tmp_path / name).mkdir()
    for content in ("one", "two"):
        (tmp_path / "a+b" / "weights").write_text(content)
        whole = f"{tmp_path / 'base'}+{tmp_path / 'a+b'}"
        seen.append(fingerprint([whole, f"{whole}=0.5"]))
    assert all(before != after for before, after in zip(*seen, strict=True)), seen

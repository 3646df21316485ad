"""`cpt --sampling`: the shares of a run follow it, and nothing else says shares beside it."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from surgeon.errors import SurgeonError
from surgeon.train.describe import describe_cpt
from surgeon.train.early import check_words
from surgeon.train.job import prepare
from surgeon.train.run import run_cpt
from surgeon.train.settings import CptSettings

Tiny = Callable[..., Path]


@pytest.fixture
def words(tiny: Tiny, corpus: Path, tmp_path: Path) -> dict[str, Any]:
    """Three corpora of very different sizes, and one that is replayed."""
    data = []
    for name, documents in (("large", 400), ("middle", 60), ("small", 6)):
        path = tmp_path / f"{name}.jsonl"
        path.write_text(
            "".join(json.dumps({"text": f"Tom had {n} red {name} balls."}) + "\n" for n in range(documents))
        )
        data.append(f"{name}={path}")
    return {
        "model": str(tiny("llama")), "out": str(tmp_path / "out"), "data": data, "tokens": 6400,
        "replay": [f"old={corpus}"], "replay_ratio": 0.25, "seq_len": 16, "batch_tokens": 64,
    }  # fmt: skip


def read(words: dict[str, Any], **changes: Any) -> dict[str, dict[str, Any]]:
    return {row["name"]: row for row in describe_cpt(CptSettings(**words | changes))["data"]}


def test_shares_follow_the_sampling(words: dict[str, Any]) -> None:
    plain = read(words)
    sizes = {name: plain[name]["tokens"] for name in ("large", "middle", "small")}
    assert plain == read(words, sampling="proportional")
    for name, size in sizes.items():
        assert plain[name]["share"] == pytest.approx(0.75 * size / sum(sizes.values()), rel=1e-12)
    flat = read(words, sampling="temperature:alpha=0")
    powered = read(words, sampling="temperature", option={"sampling.alpha": 0.5})
    root = {name: size**0.5 for name, size in sizes.items()}
    for name in sizes:
        assert flat[name]["share"] == pytest.approx(0.25, rel=1e-12)
        assert powered[name]["share"] == pytest.approx(0.75 * root[name] / sum(root.values()), rel=1e-12)
    for found in (flat, powered):
        assert found["old"] == plain["old"]


def test_no_corpus_is_read_more_often_than_unimax_lets_it(words: dict[str, Any]) -> None:
    """Within the window that a corpus may be ahead; those that are not held back get the same."""
    found = read(words, sampling="unimax:max_epochs=3")
    size = {name: found[name]["tokens"] for name in found}
    assert abs(found["small"]["trained_tokens"] - 3 * size["small"]) <= 16
    assert found["small"]["epochs"] <= 3 + 16 / size["small"]
    rest = (0.75 * 6400 - 3 * size["small"]) / 2
    held = min(rest, 3 * size["middle"])
    assert abs(found["middle"]["trained_tokens"] - held) <= 16
    assert abs(found["large"]["trained_tokens"] - (2 * rest - held)) <= 16
    with pytest.raises(SurgeonError, match=r"more than 0\.1 times"):
        read(words, sampling="unimax:max_epochs=0.1")


@pytest.mark.parametrize(
    ("changes", "told"),
    [
        ({"sampling": "unimx"}, "unimax"),
        ({"sampling": "unimax:epochs=2"}, "epochs"),
        ({"sampling": "unimax:max_epochs=0"}, "max_epochs"),
        ({"sampling": "temperature", "mixture": ["1:large=1,middle=1,small=1,old=1"], "replay_ratio": None}, "stages"),
    ],
)
def test_refused_before_a_corpus_is_read(words: dict[str, Any], changes: dict[str, Any], told: str) -> None:
    with pytest.raises(SurgeonError) as error:
        check_words(CptSettings(**words | changes))
    assert told in str(error.value)


def test_a_weight_beside_it_is_refused(words: dict[str, Any]) -> None:
    with pytest.raises(SurgeonError, match="a weight for 'large'"):
        check_words(CptSettings(**words | {"data": [f"{text}:2" for text in words["data"]], "sampling": "unimax"}))


def test_a_replayed_corpus_may_have_a_weight_of_its_own(words: dict[str, Any]) -> None:
    job = prepare(CptSettings(**words | {"replay": [words["replay"][0] + ":2"], "sampling": "unimax"}), dry=True)
    assert job.data.sources[-1].share == pytest.approx(0.25, rel=1e-12)
    assert job.record["sampling"] == "unimax"


def test_a_sampling_of_ones_own(words: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "own_sampling.py").write_text(
        "def backwards(sizes):\n    return list(range(len(sizes), 0, -1))\n\ndef short(sizes):\n    return [1.0]\n"
    )
    monkeypatch.syspath_prepend(tmp_path)
    found = read(words, sampling="own_sampling:backwards")
    assert found["large"]["share"] == pytest.approx(0.75 * 3 / 6)
    with pytest.raises(SurgeonError, match=r"it gave 1\.0 for 3 corpora"):
        read(words, sampling="own_sampling:short")


def test_a_run_with_it_is_recorded_and_its_bytes_are_its_own(words: dict[str, Any], tmp_path: Path) -> None:
    short = words | {"tokens": 640, "keep_state": True}
    ends = {}
    for name, sampling in (("a", "unimax"), ("b", "unimax"), ("c", "proportional")):
        run_cpt(CptSettings(**short | {"out": str(tmp_path / name), "sampling": sampling}))
        ends[name] = (tmp_path / name / "model.safetensors").read_bytes()
    assert ends["a"] == ends["b"] != ends["c"]
    settings = json.loads((tmp_path / "a" / "surgeon.json").read_text())["settings"]
    assert settings["sampling"] == "unimax"

"""What `cpt` reads: stages, replay on top, orders and packings, from settings to the mixture."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from surgeon.data.source import parse_corpus
from surgeon.errors import SurgeonError, UsageError
from surgeon.train.describe import describe_cpt
from surgeon.train.job import prepare
from surgeon.train.run import run_cpt
from surgeon.train.settings import CptSettings

Tiny = Callable[..., Path]


@pytest.fixture
def words(tiny: Tiny, corpus: Path, tmp_path: Path) -> dict[str, Any]:
    scored = tmp_path / "scored.jsonl"
    records = [{"text": f"Tom had {n} red balls.", "q": n % 3} for n in range(9)]
    scored.write_text("".join(json.dumps(r) + "\n" for r in records))
    return {
        "model": str(tiny("llama")), "out": str(tmp_path / "out"), "data": [f"new={scored}"], "tokens": 2048,
        "replay": [f"old={corpus}"], "seq_len": 16, "batch_tokens": 64,
    }  # fmt: skip


def test_additive_replay_comes_on_top_of_the_new_tokens(words: dict[str, Any]) -> None:
    words |= {"replay_ratio": 0.2}
    plain, added = (
        describe_cpt(CptSettings(**words, replay_mode=m))
        for m in ("compute-equivalent", "additive")  # type: ignore[arg-type]
    )
    assert [(d["steps"], d["tokens"]) for d in (plain, added)] == [(32, 2048), (40, 2560)]
    new = [next(c["trained_tokens"] for c in d["data"] if c["name"] == "new") for d in (plain, added)]
    assert abs(new[0] - 0.8 * 2048) <= 16
    assert abs(new[1] - 2048) <= 16


def test_stages_change_the_shares_where_they_say(words: dict[str, Any]) -> None:
    job = prepare(CptSettings(**words, mixture=["0.25:new=0,old=1", "1:new=3,old=1"]), dry=True)
    assert (job.shape.steps, job.shape.rows) == (32, 4)
    assert job.data.mixture.counts(8) == [0, 32]
    assert job.data.mixture.counts(32) == [72, 56]
    assert [s.share for s in job.data.sources] == pytest.approx([0.75 * 0.75, 0.25 + 0.75 * 0.25])
    assert job.record["mixture"] == ["0.25:new=0,old=1", "1:new=3,old=1"]


@pytest.mark.parametrize(
    ("changes", "problem"),
    [
        ({"mixture": ["1:new=1,old=1"], "replay_ratio": 0.1}, "shares of replay"),
        ({"mixture": ["1:new=1,old=1"], "replay_mode": "additive"}, "shares of replay"),
        ({"mixture": ["1:new=1"]}, "'old' has no weight"),
        ({"order": "by q"}, "is not an order"),
        ({"order": "ascending:w"}, "no number in its field 'w'"),
        ({"replay": [], "replay_mode": "additive"}, "additive replay without"),
    ],
)
def test_what_does_not_fit_together_is_refused(words: dict[str, Any], changes: dict[str, Any], problem: str) -> None:
    with pytest.raises(SurgeonError, match=problem):
        prepare(CptSettings(**words | changes), dry=True)


def test_a_weight_beside_stages_is_refused(words: dict[str, Any]) -> None:
    words |= {"data": [words["data"][0] + ":2"], "mixture": ["1:new=1,old=1"]}
    with pytest.raises(UsageError, match="'new' has a weight beside"):
        prepare(CptSettings(**words), dry=True)


def test_an_order_by_scores_is_one_of_the_data_and_replay_is_shuffled(words: dict[str, Any]) -> None:
    """The records of the replay corpus have no scores; it is read as it is without an order."""
    plain, ordered = (prepare(CptSettings(**words, order=o), dry=True) for o in ("shuffled", "descending:q"))
    new, old = (job.data.sources for job in (plain, ordered))
    assert [s.replay for s in new] == [False, True]
    first, second = ([s.packed.window(n).ids.tolist() for n in range(20)] for s in (new[1], old[1]))
    assert first == second
    first, second = ([s.packed.window(n).ids.tolist() for n in range(20)] for s in (new[0], old[0]))
    assert first != second


def test_a_run_by_concatenation_in_an_order(words: dict[str, Any]) -> None:
    words |= {"replay": [], "packing": "concat", "order": "descending:q", "tokens": 256}
    job = prepare(CptSettings(**words), dry=True)
    assert job.data.mixture.documents_of(0)[0]["documents"][0] == 2  # the first of those with the greatest number
    assert {w.lengths for w in job.data.mixture.batch(0)} == {(16,)}
    assert run_cpt(CptSettings(**words)).steps == 4
    assert parse_corpus(words["data"][0]).score_field is None

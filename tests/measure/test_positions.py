"""Loss by position: windows that are full, every token once, the numbers of transformers at each place."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch

from surgeon.data.items import prepare, take
from surgeon.data.pack import IGNORED
from surgeon.data.source import parse_corpus
from surgeon.errors import SurgeonError, UsageError
from surgeon.loading import load_model, load_tokenizer
from surgeon.measure.perplexity import evaluate
from surgeon.measure.positions import Bucket, by_position, edges_of, full_windows


def test_edges() -> None:
    assert edges_of(512) == (32, 64, 128, 256, 512)
    assert edges_of(500) == (32, 64, 128, 256, 500)
    assert edges_of(20) == (20,)
    assert edges_of(512, [100, 512]) == (100, 512) and edges_of(512, [100]) == (100, 512)
    with pytest.raises(UsageError, match="do not ascend"):
        edges_of(512, [64, 32])
    with pytest.raises(UsageError, match="beyond the context"):
        edges_of(512, [1024])


def test_buckets_by_hand() -> None:
    nats = np.array([[1.0, 2.0, 3.0, 4.0], [5.0, 6.0, 7.0, 0.0]])
    labels = np.array([[9, 9, 9, IGNORED], [9, IGNORED, 9, IGNORED]])
    assert by_position(nats, labels, (2, 4, 8)) == [
        Bucket(0, 2, 2, 3.0),  # one token before: 1 and 5
        Bucket(2, 4, 3, 4.0),  # two: 2; three: 3 and 7
        Bucket(4, 8, 0, None),
    ]


def test_windows_hold_every_token_once_in_order(stories: Path) -> None:
    tokenizer = load_tokenizer(stories)
    held = take(parse_corpus(str(stories.parent / "general.valid.jsonl")), tokenizer, 1000)
    items = prepare(held, tokenizer)
    windows = list(full_windows(items, 48))
    assert {len(w.ids) for w in windows} == {48} and len(windows) >= 10
    for number, item in enumerate(items):
        own = [w for w in windows if w.item == number]
        assert len(own) == (len(item.ids) - 1) // 47
        text = np.concatenate([w.ids[1:] for w in own]) if own else np.array([])
        assert np.array_equal(text, item.ids[1 : 1 + len(text)])
        for window in own:
            assert window.ids[0] == item.ids[0] == 1 and window.labels[-1] == IGNORED
            assert np.array_equal(window.labels[:-1], window.ids[1:])


def test_the_losses_are_those_of_transformers(stories: Path) -> None:
    data = str(stories.parent / "general.valid.jsonl")
    found = evaluate([str(stories)], [f"g={data}"], 600, context=64, by_position=True, positions=[8, 32], device="cpu")
    measured = found["models"][0]["corpora"][0]["by_position"]
    model, tokenizer = load_model(stories, device=torch.device("cpu"), dtype=torch.float32), load_tokenizer(stories)
    items = prepare(take(parse_corpus(data), tokenizer, 600), tokenizer)
    sums: dict[int, list[float]] = {}
    for window in full_windows(items, 64):
        with torch.no_grad():
            logp = model(torch.from_numpy(window.ids)[None]).logits[0].log_softmax(-1)
        for place in range(63):
            sums.setdefault(place + 1, []).append(-float(logp[place, window.ids[place + 1]]))
    assert measured["context"] == 64 and [(b["start"], b["stop"]) for b in measured["buckets"]] == [
        (0, 8), (8, 32), (32, 64),
    ]  # fmt: skip
    for bucket in measured["buckets"]:
        values = [v for place in range(bucket["start"], bucket["stop"]) for v in sums.get(place, [])]
        assert bucket["tokens"] == len(values)
        assert bucket["nats_per_token"] == pytest.approx(sum(values) / len(values), rel=1e-6)
    first, *_, last = (b["nats_per_token"] for b in measured["buckets"])
    assert first > last + 0.3  # what stands before helps


def test_refusals(stories: Path, tmp_path: Path) -> None:
    short = tmp_path / "short.jsonl"
    short.write_text(json.dumps({"text": "Once upon a time."}) + "\n")
    with pytest.raises(SurgeonError, match="no document of 1 fills a window of 64"):
        evaluate([str(stories)], [str(short)], context=64, by_position=True, device="cpu")
    with pytest.raises(UsageError, match="of --by-position"):
        evaluate([str(stories)], [str(short)], positions=[8], device="cpu")

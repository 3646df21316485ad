"""Finished trainings from tables and from the folders of cpt runs."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from law_runs import HEAD, LINE, answer, refused, surgeon

from surgeon.laws.read_runs import read_table


@pytest.mark.parametrize(
    ("name", "text", "told"),
    [
        ("r.csv", f"{HEAD},shares\n{LINE},1\n", "there is no column 'shares'"),
        ("r.csv", f"{HEAD.replace('domain', 'share')}\n{LINE}\n", "'share' is there twice"),
        ("r.csv", "parameters,tokens,share,general\n1,1,1,1\n", "the column 'domain' is missing"),
        ("r.csv", f"{HEAD}\n{LINE},3\n", "6 values under 5 columns"),
        ("r.csv", f"{HEAD}\n{LINE.replace('0.9', '90')}\n", "share is '90'"),
        ("r.csv", f"{HEAD}\n{LINE.replace('2.9', 'nan')}\n", "general is 'nan'"),
        ("r.csv", f"{HEAD}\n{LINE.replace('1.7', '-1')}\n", "domain is '-1'"),
        ("r.csv", f"{HEAD}\n{LINE.replace('10B', '1.5')}\n", "tokens is '1.5'"),
        ("r.csv", f"{HEAD}\n", "there are no runs"),
        ("r.csv", "", "the column 'parameters' is missing"),
        ("r.jsonl", "[1]\n", "no JSON object"),
        ("r.jsonl", "{\n", "not JSON"),
        ("r.jsonl", json.dumps(dict.fromkeys(HEAD.split(","), True)) + "\n", "parameters is True"),
        ("r.json", "{}", "neither a folder nor a table"),
    ],
)  # fmt: skip
def test_a_table_that_is_not_one_is_refused_by_its_line(tmp_path: Path, name: str, text: str, told: str) -> None:
    (tmp_path / name).write_text(text)
    refused(surgeon("mix", "fit", str(tmp_path / name), "--law", "dcpt"), 1, told, name)


def test_runs_of_one_size_start_from_one_model(tmp_path: Path) -> None:
    (tmp_path / "r.csv").write_text(f"{HEAD},general_start\n{LINE},2.8\n{LINE},2.7\n")
    refused(
        surgeon("mix", "fit", str(tmp_path / "r.csv"), "--law", "cmr"), 1, "start at general losses of 2.8 and 2.7"
    )


def test_csv_and_json_lines_are_read_alike(tmp_path: Path) -> None:
    """Counts as people write them or as numbers, blank lines, an absent general_start."""
    (tmp_path / "a.csv").write_text(f"{HEAD},general_start\n{LINE},\n\n500M,1k,0,3,2,2.9\n")
    rows = [
        {"parameters": 5e8, "tokens": 1000, "share": 0, "general": 3, "domain": 2, "general_start": 2.9},
        {"domain": 1.7, "parameters": "1.8B", "tokens": 10_000_000_000, "share": 0.9, "general": 2.9},
    ]
    (tmp_path / "b.jsonl").write_text("\n\n".join(map(json.dumps, rows)))
    assert sorted(read_table(tmp_path / "a.csv")) == sorted(read_table(tmp_path / "b.jsonl"))


def test_folders_of_trainings_are_runs(stories: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Shares, tokens, parameters and losses as the runs themselves tell them."""
    monkeypatch.chdir(tmp_path)
    data = stories.parent
    texts = {name: str(data / f"{name}.jsonl") for name in ("domain.train", "general.train")}
    common = (
        "--data",
        texts["domain.train"],
        "--replay",
        texts["general.train"],
        "--tokens",
        "2k",
        "--seq-len",
        "128",
        "--batch-tokens",
        "512",
        "--lr",
        "1e-3",
        "--eval-tokens",
        "500",
        "--eval",
        f"dom={data / 'domain.valid.jsonl'}",
        "--eval",
        f"gen={data / 'general.valid.jsonl'}",
    )
    results = []
    for ratio in ("0.75", "0.5", "0.25"):
        done = surgeon("cpt", str(stories), f"at-{ratio}", *common, "--replay-ratio", ratio, "--json")
        assert done.code == 0, done.err
        results.append(json.loads(done.out))
    folders = ["at-0.75", "at-0.5", "at-0.25"]
    named = ("--law", "cmr", "--general", "gen", "--domain", "dom")
    found = answer("fit", *folders, *named, "--out", "law.json")
    assert found["runs"] == 3 and found["range"] == {
        "parameters": [260032, 260032], "tokens": [2048, 2048], "share": [0.25, 0.75],
    }  # fmt: skip
    start = next(e["nats_per_token"] for e in results[0]["eval"] if e["name"] == "gen" and e["step"] == 0)
    assert found["general_start"] == {"260032": start}
    for result, share in zip(results, ("0.25", "0.5", "0.75"), strict=True):
        at = answer("predict", "law.json", "--parameters", "260032", "--tokens", "2048", "--share", share)
        last = {e["name"]: e["nats_per_token"] for e in result["eval"] if e["step"] == result["steps"]}
        assert (at["general"], at["domain"]) == pytest.approx((last["gen"], last["dom"]), rel=2e-3)
    refused(surgeon("mix", "fit", *folders, "--law", "cmr"), 2, "--general NAME --domain NAME")
    wrong = ("--law", "cmr", "--general", "gem", "--domain", "dom")
    refused(surgeon("mix", "fit", *folders, *wrong), 1, "no evaluation 'gem'", "did you mean 'gen'")
    refused(surgeon("mix", "fit", str(stories), *named), 1, "no finished training")
    refused(surgeon("mix", "fit", *folders, *named, "--out", "at-0.5/law.json"), 1, "lies inside an input")
    lineage = json.loads(Path("at-0.5/surgeon.json").read_text())
    for changed, told in (
        (lineage | {"training": lineage["training"] | {"of_steps": 9}}, "the run is at step 4 of 9"),
        (lineage | {"adapter": {"kind": "lora"}}, "holds an adapter, not the whole model"),
        (lineage | {"operation": "merge"}, "no finished training"),
    ):
        Path("at-0.5/surgeon.json").write_text(json.dumps(changed))
        refused(surgeon("mix", "fit", *folders, *named), 1, told, "at-0.5")

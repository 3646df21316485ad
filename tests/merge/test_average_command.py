"""surgeon average as a command and as a stage of a recipe."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from average_runs import kept_run, kept_steps, weights_bytes

from surgeon.checkpoint.index import Checkpoint
from surgeon.cli.app import main
from surgeon.merge.average_weights import average_weights


@pytest.fixture(scope="module")
def run(stories: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return kept_run(stories, tmp_path_factory.mktemp("average") / "run")


@pytest.fixture(scope="module")
def steps(run: Path) -> list[Path]:
    return kept_steps(run)


def command(capsys: pytest.CaptureFixture[str], *words: str) -> str:
    with pytest.raises(SystemExit) as stop:
        main(list(words))
    found = capsys.readouterr()
    assert stop.value.code == 0, found.err
    return found.out


def test_the_command_prints_the_weights(
    run: Path, steps: list[Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    words = ("average", str(run), str(tmp_path / "out"), "--last", "3", "--weights", "ema:0.2")
    weights = average_weights("ema:0.2", 3)[0]
    expected = [
        {"path": str(p), "step": int(p.name[5:]), "weight": w} for p, w in zip(steps[-3:], weights, strict=True)
    ]
    dry = json.loads(command(capsys, *words, "--dry-run", "--json"))
    assert dry["checkpoints"] == expected and dry["operation"] == "average" and not (tmp_path / "out").exists()
    table = command(capsys, *words, "--dry-run")
    rows = [line.replace("│", " ").split() for line in table.splitlines() if "step-" in line]
    assert rows == [[p.name, str(int(p.name[5:])), f"{w:.6g}"] for p, w in zip(steps[-3:], weights, strict=True)]
    command(capsys, *words, "--plan", str(tmp_path / "plan.json"))
    made = json.loads(command(capsys, *words, "--json"))
    assert made["checkpoints"] == expected and made["plan_digest"] == dry["plan_digest"]
    command(capsys, "apply", str(tmp_path / "plan.json"), str(tmp_path / "applied"))
    assert weights_bytes(tmp_path / "applied") == weights_bytes(tmp_path / "out")
    command(capsys, "verify", str(tmp_path / "out"), "--function")


def test_a_stage_of_a_recipe(stories: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "recipe.yaml").write_text(f"""
title: "A run and the average of its end"
inputs: {{base: {stories}}}
stages:
  taught:
    run: cpt
    uses: {{model: base}}
    with: {{data: ["{stories.parent}/domain.valid.jsonl"], tokens: 1024, seq-len: 64, batch-tokens: 256, save-every: 1,
            schedule: constant, lr: 1e-3, keep-checkpoints: 3, device: cpu}}
  averaged:
    run: average
    uses: {{run: taught}}
    with: {{last: 3}}
""")
    for _ in range(2):  # the second time everything is done
        command(capsys, "run", str(tmp_path / "recipe.yaml"), "--out", str(tmp_path / "made"))
    (result,) = (tmp_path / "made" / "results").glob("averaged-*.json")
    record = json.loads(result.read_text())
    assert [c["step"] for c in record["result"]["checkpoints"]] == [2, 3, 4]
    assert Checkpoint.open(tmp_path / "made" / record["out"]).lineage is not None

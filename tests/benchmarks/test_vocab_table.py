"""The means over texts and trainings of the inits' benchmark."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

BENCHMARKS = Path(__file__).resolve().parents[2] / "benchmarks"
sys.path.insert(0, str(BENCHMARKS))
from vocab_table import across, summary  # noqa: E402


def records() -> list[dict[str, object]]:
    numbers = {"subword_mean": (2.0, 1.0), "default": (1.0, 0.25)}
    return [
        {
            "text": text, "init": init, "seed": seed,
            "numbers": {"0": first, "lost": 0.1, "full 100": last, "new-rows 100": first, "full 100 (9 tokens)": last},
        }
        for text in ("a", "b") for seed in (0, 1) for init, (first, last) in numbers.items()
    ]  # fmt: skip


def test_ratios_are_averaged_over_texts_and_trainings() -> None:
    found = across(summary(records(), ("full", "new-rows")))
    assert found["default"]["0"] == (0.5, 2)
    assert found["default"]["100"] == (pytest.approx((0.5 * 0.25) ** 0.5), 4)
    assert found["default"]["100 (9 tokens)"] == (0.25, 2)
    assert set(found["default"]) == {"0", "100", "100 (9 tokens)"}


def test_the_later_of_two_files_holds(tmp_path: Path) -> None:
    for name, part in (("x", records()), ("y", [r for r in records() if r["text"] == "a"])):
        (tmp_path / f"{name}.json").write_text(json.dumps({"texts": summary(part, ("full", "new-rows"))}))
    held = json.loads((tmp_path / "y.json").read_text())
    held["texts"]["a"]["default"]["0"]["ratio"] = 0.125
    (tmp_path / "y.json").write_text(json.dumps(held))
    words = [sys.executable, str(BENCHMARKS / "vocab_table.py"), str(tmp_path / "x.json"), str(tmp_path / "y.json")]
    printed = subprocess.run(words, capture_output=True, text=True, check=True).stdout
    assert "default: 0: 0.250 of 2;" in printed
    one = subprocess.run([*words, "--texts", "a"], capture_output=True, text=True, check=True).stdout
    assert "default: 0: 0.125 of 1;" in one

"""The README is true: its commands run, its table is the one that the quickstart prints, its method works."""

from __future__ import annotations

import importlib
import json
import os
import pkgutil
import re
import subprocess
import sys
from pathlib import Path

import pytest

from surgeon.cli import commands

ROOT = Path(__file__).resolve().parent.parent
README = (ROOT / "README.md").read_text(encoding="utf-8")
# the arithmetic of another processor may differ in the last bits, and training carries that on
TOLERANCE = 0.03


def examples() -> list[str]:
    found = []
    for module in pkgutil.iter_modules(commands.__path__):
        found += importlib.import_module(f"surgeon.cli.commands.{module.name}").EXAMPLES
    return found


def test_examples_of_the_table_are_examples_of_the_commands() -> None:
    """Those are executed, all of them, by tests/cli/test_examples.py."""
    rows = re.findall(r"\| `(surgeon [^`]+)` \|", README)
    assert len(rows) >= 12 and all(row in examples() for row in rows)


def test_the_two_commands_are_what_continuous_integration_runs() -> None:
    assert "pip install -e '.[test]' && pytest" in README
    script = (ROOT / ".ci" / "run").read_text(encoding="utf-8")
    assert "pip install --quiet -e '.[test]'" in script and "pytest" in script


def numbers(text: str) -> list[tuple[str, list[float]]]:
    """Rows of a printed table: label and numbers (not the changes in %, which follow from them)."""
    rows = []
    for line in text.splitlines():
        label = re.search(r"\b(base|instruct|domain|merged)\b", line)
        found = [float(n) for n in re.findall(r"(?<![\w.+-])\d+\.\d+(?![\d%])", line)]
        if label and len(found) >= 3:
            rows.append((label[1], found))
    return rows


def test_quickstart_prints_what_the_readme_shows(tmp_path: Path) -> None:
    environment = {k: v for k, v in os.environ.items() if k != "OMP_NUM_THREADS"} | {"HF_HUB_OFFLINE": "1"}
    command = [sys.executable, "-m", "surgeon", "run", str(ROOT / "recipes" / "quickstart.yaml"), "--out", "run"]
    run = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=False, env=environment)
    assert run.returncode == 0, run.stderr
    shown = README.split("<!-- quickstart output: begin -->")[1].split("<!-- quickstart output: end -->")[0]
    expected, printed = numbers(shown), numbers(run.stdout)
    assert (
        [label for label, _ in printed] == [label for label, _ in expected] == ["base", "instruct", "domain", "merged"]
    )
    for (label, want), (_, got) in zip(expected, printed, strict=True):
        assert len(want) == len(got)
        for a, b in zip(want, got, strict=True):
            assert abs(a - b) <= TOLERANCE * max(1.0, abs(a)), (label, want, got)
    assert (tmp_path / "run" / "report.html").is_file()
    value = json.loads((tmp_path / "run" / "run.json").read_text())
    table = next(s["result"] for s in value["stages"] if s["operation"] == "evaluate")
    score = {m["model"]: {c["name"]: c["bits_per_byte"] for c in m["corpora"]} for m in table["models"]}
    assert score["domain"]["domain"] < 0.8 * score["base"]["domain"]
    assert score["merged"]["instruction"] < score["domain"]["instruction"]


def test_the_method_of_the_readme(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    code = re.search(r"```python\n# surgeon/train/schedules/(\w+)\.py\n(.*?)```", README, re.S)
    assert code is not None
    (tmp_path / f"{code[1]}_file.py").write_text(code[2])
    monkeypatch.syspath_prepend(str(tmp_path))
    from surgeon import registry

    method = registry.get("schedule", f"{code[1]}_file:{code[1]}")
    values = [method.call({"step": s, "total": 8}, {}) for s in range(9)]
    assert values == [1, 0.5, 1, 0.5, 1, 0.5, 1, 0.5, 1] and method.source == "none, an example."

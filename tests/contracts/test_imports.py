"""Imports go one way, and what starts fast stays free of torch."""

from __future__ import annotations

import ast
import subprocess
import sys
import time
from pathlib import Path

import pytest

PACKAGE = Path(__file__).resolve().parent.parent.parent / "surgeon"
RANKS = {
    "errors": 0, "progress": 0, "figure": 0, "number": 0, "words": 0, "registry": 1, "settings": 1,
    "checkpoint": 2, "scales": 2, "loading": 2.2, "model_ref": 2.5, "card": 2.7, "arch": 3, "ops": 4, "data": 4,
    "expand": 5, "vocab": 5, "multimodal": 5.2, "context": 5.3, "adapters": 5, "laws": 5,
    "merge": 5.5, "train": 6, "measure": 7, "search": 7.5, "inspect_model": 8, "report": 8,
    "operations": 9, "saved_plan": 10, "replan": 10, "recipe": 10, "verify_expansion": 10, "verify_undo": 10,
    "early": 10.5, "foreseen": 10.5, "foresee": 10.7, "early_models": 10.9,
    "verify": 11, "hub": 11.5, "run": 11, "cli": 12, "__main__": 13,
}  # fmt: skip


def top(path: Path) -> str:
    parts = path.relative_to(PACKAGE).parts
    return parts[0].removesuffix(".py")


def imports(path: Path) -> list[str]:
    found = []
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.ImportFrom) and node.module and node.module.startswith("surgeon."):
            found.append(node.module.split(".")[1])
        elif isinstance(node, ast.Import):
            found += [a.name.split(".")[1] for a in node.names if a.name.startswith("surgeon.")]
    return found


@pytest.mark.parametrize("path", sorted(PACKAGE.rglob("*.py")), ids=lambda p: str(p.relative_to(PACKAGE)))
def test_imports_go_one_way(path: Path) -> None:
    if path == PACKAGE / "__init__.py":
        return
    mine = top(path)
    for other in imports(path):
        assert other == mine or RANKS[other] < RANKS[mine], f"{mine} imports {other}"


def test_no_file_is_over_300_lines() -> None:
    long = {
        str(p.relative_to(PACKAGE)): n for p in PACKAGE.rglob("*.py") if (n := len(p.read_text().split("\n"))) > 301
    }
    assert not long


LIGHT = (
    "import surgeon.cli.app, surgeon.settings, surgeon.ops.plan, surgeon.arch.family, surgeon.checkpoint.index\n"
    "surgeon.cli.app.build()\n"
)


def test_the_command_line_starts_without_torch() -> None:
    script = (
        LIGHT
        + "import sys; print([m for m in ('torch', 'transformers', 'scipy', 'mergekit', 'peft') if m in sys.modules])"
    )
    run = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert run.stdout.strip() == "[]"


def test_training_runs_where_surgery_only_libraries_are_absent(stories: Path, tmp_path: Path) -> None:
    """mergekit, scipy and matplotlib are blocked: cpt on a GPU image does not have them."""
    (tmp_path / "text.jsonl").write_text('{"text": "Once upon a time there was a little dog."}\n' * 40)
    script = f"""
import sys
for name in ("mergekit", "scipy", "sklearn", "matplotlib", "jinja2", "sentencepiece", "pandas"):
    sys.modules[name] = None
from surgeon.cli.app import main
main(["cpt", {str(stories)!r}, {str(tmp_path / "out")!r}, "--data", {str(tmp_path / "text.jsonl")!r},
      "--tokens", "600", "--seq-len", "64", "--batch-tokens", "128", "--quiet"])
"""
    run = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=False)
    assert run.returncode == 0, run.stderr
    assert (tmp_path / "out" / "surgeon.json").is_file()


@pytest.mark.long
def test_help_answers_in_under_a_second() -> None:
    times = []
    for _ in range(5):
        started = time.perf_counter()
        subprocess.run([sys.executable, "-m", "surgeon", "--help"], capture_output=True, check=True)
        times.append(time.perf_counter() - started)
    assert min(times) < 1.0

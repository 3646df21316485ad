"""A law is a file: dropped into the package it is listed, fitted, asked."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from law_runs import HEAD, LINE

import surgeon as package

NEW_LAW = '''"""Flat."""

import numpy as np

from surgeon.laws.law import Law


def flat(*, above: float = 0.0) -> Law:
    """The mean of the runs.

    Source: this test.
    """
    def fit(runs):
        return {curve: {"mean": float(losses.mean()) + above} for curve, losses in runs.losses.items()}

    def predict(constants, points):
        return {curve: np.full(len(points.share), c["mean"]) for curve, c in constants.items()}

    return Law(1, fit, predict)
'''


def test_a_new_law_is_a_file(tmp_path: Path) -> None:
    """In a copy of the package: nothing but the new file is added."""
    copy = tmp_path / "surgeon"
    shutil.copytree(Path(str(package.__file__)).parent, copy, ignore=shutil.ignore_patterns("__pycache__"))
    (copy / "laws" / "kinds" / "flat.py").write_text(NEW_LAW)
    (tmp_path / "runs.csv").write_text(f"{HEAD}\n{LINE}\n{LINE.replace('2.9', '3.1')}\n")

    def call(*words: str, code: int = 0) -> dict[str, object]:
        run = subprocess.run(
            [sys.executable, "-m", "surgeon", *words, "--json"], capture_output=True, text=True, check=False,
            env={**os.environ, "PYTHONPATH": str(tmp_path)}, cwd=tmp_path,
        )  # fmt: skip
        assert run.returncode == code, run.stderr
        found: dict[str, object] = json.loads(run.stdout)
        return found

    methods = call("methods", "law")["methods"]
    assert isinstance(methods, list) and [m["name"] for m in methods] == ["cmr", "dcpt", "flat"]
    fit = call("mix", "fit", "runs.csv", "--law", "flat", "--option", "above=0.5", "--out", "law.json")
    assert fit["constants"] == {"general": {"mean": 3.5}, "domain": {"mean": pytest.approx(2.2)}}
    assert call("mix", "predict", "law.json", "--parameters", "1B", "--tokens", "1B", "--share", "1")["general"] == 3.5
    at = ("mix", "optimum", "law.json", "--parameters", "1B", "--tokens", "1B", "--general-start", "3")
    assert call(*at, "--eps", "0.6")["share"] == 1.0
    assert call(*at, "--eps", "0.4", code=3)["share"] is None

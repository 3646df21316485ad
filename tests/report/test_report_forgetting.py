"""Forgetting and the stability gap in a report: the curve, the table, and the JSON."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from report_folders import HOSTILE, Page, checkpoint, deepened, metrics, trained

from surgeon.report.curves import EvalPoint
from surgeon.report.forgetting import lost, rows
from surgeon.report.html import write_report

CURVES = {
    "dips": [2.0, 2.5, 2.25, 1.75],
    "stays": [1.0, 1.25, 1.5, 1.125],
    "learned": [3.0, 2.5, 2.0, 1.5],
    HOSTILE[0]: [2.0, 2.5, 2.25, 1.75],
}


def lines() -> list[dict[str, Any]]:
    """Metrics of three steps, evaluated before the first and after each."""
    found = [{"step": 0, "tokens": 0}, *metrics(3)]
    for step, line in enumerate(found):
        evals = [(name, bits[step]) for name, bits in CURVES.items()]
        line["eval"] = [{"step": step, "name": n, "nats_per_token": 2 * b, "bits_per_byte": b} for n, b in evals]
    return found


def test_numbers_and_page(tmp_path: Path) -> None:
    folder = checkpoint(tmp_path / "m", trained(deepened()), lines())
    paths = write_report(folder)
    training = json.loads(paths.json.read_text(encoding="utf-8"))["training"][0]
    by_name = {s["name"]: s for s in training["stability"]}
    assert list(by_name) == list(CURVES)
    assert by_name["dips"] == {
        "name": "dips", "unit": "bits per byte", "start": 2.0, "end": 1.75, "forgetting": -0.25, "depth": 0.5,
        "dip_step": 1, "recovered_at": 3,
    }  # fmt: skip
    assert [by_name["stays"][k] for k in ("depth", "dip_step", "recovered_at")] == [0.5, 2, None]
    assert [by_name["learned"][k] for k in ("depth", "dip_step", "recovered_at")] == [0.0, None, None]
    text = paths.html.read_text(encoding="utf-8")
    page = Page(text)
    assert page.open == [] and page.count("table", "stability") == 1
    assert "stays +0.1250 +0.5000 2 not recovered" in page.text
    assert "dips -0.2500 +0.5000 1 3" in page.text
    assert "learned -1.5000 0.0000 – –" in page.text
    labels = [a.get("aria-label") for tag, a in page.elements if tag == "svg"]
    assert "What was lost during cpt 1" in labels
    assert write_report(folder, out=tmp_path / "again").html.read_text(encoding="utf-8") == text


def test_a_training_that_lost_nothing_has_no_curve_of_it(tmp_path: Path) -> None:
    kept = lines()
    for line in kept:
        line["eval"] = [e for e in line["eval"] if e["name"] == "learned"]
    page = Page(write_report(checkpoint(tmp_path / "m", trained(deepened()), kept)).html.read_text(encoding="utf-8"))
    assert not [a for _, a in page.elements if (a.get("aria-label") or "").startswith("What was lost")]
    assert page.count("table", "stability") == 1


def test_one_evaluation_says_nothing_of_forgetting(tmp_path: Path) -> None:
    paths = write_report(checkpoint(tmp_path / "m", trained(deepened()), lines()[:1]))
    assert json.loads(paths.json.read_text(encoding="utf-8"))["training"][0]["stability"] == []
    assert Page(paths.html.read_text(encoding="utf-8")).count("table", "stability") == 0


def test_a_corpus_whose_loss_left_the_numbers(tmp_path: Path) -> None:
    """Dashes, and the others are measured all the same."""
    broken = lines()
    for corpus in broken[2]["eval"][:1]:
        corpus["bits_per_byte"] = corpus["nats_per_token"] = float("nan")
    paths = write_report(checkpoint(tmp_path / "m", trained(deepened()), broken))
    found = json.loads(paths.json.read_text(encoding="utf-8"))["training"][0]["stability"]
    assert found[0] == {"name": "dips", "unit": "bits per byte"} and found[1]["depth"] == 0.5
    assert "dips – – – –" in Page(paths.html.read_text(encoding="utf-8")).text


def test_marks_of_a_curve_lie_on_it() -> None:
    evals = [EvalPoint(step=10 * i, name="dips", bits_per_byte=b) for i, b in enumerate(CURVES["dips"])]
    found = [{"name": "dips", "unit": "bits per byte", "depth": 0.5, "dip_step": 10, "recovered_at": 30}]
    (curve,) = lost(found, evals)
    assert (curve.line.x, curve.line.y) == ([0.0, 10.0, 20.0, 30.0], [0.0, 0.5, 0.25, -0.25])
    assert (curve.dip, curve.back) == ((10.0, 0.5), (30.0, -0.25))
    assert rows(found)[0].lasting is False and rows([found[0] | {"recovered_at": None}])[0].lasting is True

"""A search on the terminal, in JSON, in the output's folder and in its report."""

from __future__ import annotations

import json
import re
import sys
from itertools import pairwise
from pathlib import Path

import pytest
from search_models import trained

from surgeon.checkpoint.lineage import read_lineage
from surgeon.ops.execute import execute
from surgeon.report.html import write_report
from surgeon.search.front_plot import search_svg
from surgeon.search.objective import Objective, Point
from surgeon.search.record import SearchedCorpus, SearchedVector, SearchRecord, record_of, search_json
from surgeon.search.table import columns, rows

sys.path.append(str(Path(__file__).resolve().parent.parent / "cli"))
sys.path.append(str(Path(__file__).resolve().parent.parent / "report"))
from report_folders import Page
from run_cli import Done, surgeon


def searched(base: Path, root: Path, out: str, *words: str) -> Done:
    texts = base.parent
    return surgeon(
        "merge-task-vectors", str(base), str(root / out), "--add", str(root / "one"), str(root / "other"), "--search",
        f"general={texts}/general.valid.jsonl", f"domain={texts}/domain.valid.jsonl", "--search-tokens", "0.5k",
        "--search-range", "-0.25,1", "--search-grid", "3", "--search-rounds", "1", *words,
    )  # fmt: skip


@pytest.fixture(scope="module")
def root(stories: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("shown")
    for number, name in enumerate(("one", "other")):
        trained(stories, folder / name, number)
    return folder


@pytest.fixture(scope="module")
def out(stories: Path, root: Path) -> Path:
    done = searched(stories, root, "out", "--json")
    assert done.code == 0, done.err
    (root / "out.json").write_text(done.out)
    return root / "out"


def test_people_see_the_front_the_choice_and_what_it_took(stories: Path, root: Path, out: Path) -> None:
    done = searched(stories, root, "again")
    assert done.code == 0, done.err
    found = json.loads((root / "out.json").read_text())["search"]
    assert (
        f"in {found['evaluations']} evaluations, nats per token on general" in done.out
        and "regret of a corpus = " in done.out
    )
    lines = [line for line in done.out.splitlines() if "│" in line]
    shown = [[cell.strip() for cell in line.strip("│ ").split("│")] for line in lines]
    front = [p for p in found["points"] if p["front"]]
    assert len([cells for cells in shown if "front" in cells[0]]) == len(front)
    (chosen,) = (cells for cells in shown if "chosen" in cells[0])
    assert [float(cell) for cell in chosen[1:3]] == pytest.approx(list(found["weights"].values()), abs=1e-3)
    assert [float(cell) for cell in chosen[3:5]] == pytest.approx(list(found["losses"].values()), abs=1e-4)
    for label in ("reference", "one alone", "other alone", "all at 1"):
        assert any(label in cells[0] for cells in shown)
    assert "searching the weights of" in done.err and "chosen after" in done.err
    ends = [name for name, weight in found["weights"].items() if weight in (-0.25, 1)]
    assert ("at an end of the range" in done.err) == bool(ends)


def test_json_is_one_object_with_everything(root: Path, out: Path) -> None:
    result = json.loads((root / "out.json").read_text())
    found = result["search"]
    assert result["operation"] == "merge-task-vectors" and found["objective"] == "min-max"
    assert found["evaluations"] == len(found["points"])
    assert {"weights", "losses", "regrets", "value", "kind", "front", "label"} <= found["points"][0].keys()
    lineage = read_lineage(out)
    assert lineage is not None and lineage.merge is not None
    kept = lineage.merge["search"]
    assert all(found[key] == kept[key] for key in kept if key != "points")


def test_a_dry_run_says_that_it_searches(stories: Path, root: Path) -> None:
    done = searched(stories, root, "none", "--dry-run")
    assert done.code == 0 and "the search is made all the same" in done.err and "chosen" in done.out
    assert not (root / "none").exists()


def test_a_saved_plan_holds_the_weights_that_were_found(stories: Path, root: Path, out: Path) -> None:
    done = searched(stories, root, "applied", "--plan", str(root / "plan.json"))
    assert done.code == 0, done.err
    applied = surgeon("apply", str(root / "plan.json"), "--json")
    assert applied.code == 0, applied.err
    assert (root / "applied" / "model.safetensors").read_bytes() == (out / "model.safetensors").read_bytes()
    assert json.loads(applied.out)["plan_digest"] == json.loads((root / "out.json").read_text())["plan_digest"]


def test_the_plot_lies_in_the_output_and_in_the_report(out: Path) -> None:
    (plot,) = (out / "surgeon").glob("metrics-search-*.svg")
    text = plot.read_text()
    assert text.count("<svg") == 1 and "general, nats per token" in text and "chosen: " in text
    paths = write_report(out)
    page = Page(paths.html.read_text(encoding="utf-8"))
    assert "Weights of the merge" in page.text and "one alone" in page.text and "chosen" in page.text
    numbers = json.loads(paths.json.read_text())
    (search,) = numbers["searches"]
    assert search["evaluations"] == len(search["points"]) and sorted(search["models"]) == ["one", "other"]
    assert not re.search(r"points\.\d+", page.text)  # the points stand in the table, not among the settings


def test_a_model_made_from_it_keeps_the_plot_and_its_report(stories: Path, out: Path, root: Path) -> None:
    from surgeon.expand.plan import ExpandSettings, plan_expand

    deeper = root / "deeper"
    execute(plan_expand(ExpandSettings(model=str(out), out=deeper, at=[1])), deeper)
    names = [p.name for p in (out / "surgeon").glob("metrics-search-*.svg")]
    assert len(names) == 1 and (deeper / "surgeon" / names[0]).is_file()
    numbers = json.loads(write_report(deeper).json.read_text())
    assert [s["step"] for s in numbers["searches"]] == ["1. merge-task-vectors"]


def record(vectors: int, corpora: int) -> SearchRecord:
    names = ["a", "b", "c", "d"][:corpora]
    weights = [tuple(float((i >> k) & 1) for k in range(vectors)) for i in range(2**vectors)]
    points = [Point(w, tuple(2 + (sum(w) - 0.4 * c) ** 2 for c in range(corpora)), "grid") for w in weights]
    return record_of(
        points, Objective("min-max", tuple(names)), span=(0.0, 1.0), grid=2, rounds=0, tokens=10, threads=1,
        vectors=[SearchedVector(digest=f"sha256:{v}") for v in range(vectors)],
        corpora=[SearchedCorpus(name=n, digest="sha256:x", documents=1, tokens=10, num_bytes=30) for n in names],
    )  # fmt: skip


@pytest.mark.parametrize(
    ("vectors", "corpora", "panels"), [(1, 1, 1), (2, 1, 2), (3, 1, 3), (2, 2, 1), (1, 3, 3), (2, 4, 6)]
)
def test_one_corpus_is_a_curve_two_are_a_front_more_are_pairs(vectors: int, corpora: int, panels: int) -> None:
    held = record(vectors, corpora)
    names = [f"model{v}" for v in range(vectors)]
    text = search_svg(held, names, "salt")
    assert text == search_svg(held, names, "salt")
    assert len(re.findall(r'id="axes_\d+"', text)) == panels
    wanted = "weight of model0" if corpora == 1 else "a, nats per token"
    assert wanted in text


def test_the_table_goes_along_the_front_and_then_names_the_rest() -> None:
    found = search_json(record(2, 2), {"sha256:0": "one", "sha256:1": "other"})
    lines = rows(found)
    assert all(len(line) == len(columns(found)) for line in lines)
    front = [line for line in lines if "front" in line[0]]
    assert lines[: len(front)] == front
    assert all(float(one[3]) <= float(next_[3]) for one, next_ in pairwise(front))
    labels = {p["label"] for p in found["points"]}
    assert labels == {"reference", "one alone", "other alone", "all at 1"}

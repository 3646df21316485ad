"""Reports of a run's folder and of a checkpoint, made from real files, read back with html.parser."""

from __future__ import annotations

import json
import math
import shutil
from pathlib import Path
from typing import Any

import pytest
from report_folders import (
    DIGEST,
    HOSTILE,
    Page,
    checkpoint,
    corpus,
    deepened,
    extended,
    metrics,
    metrics_path,
    trained,
)

from surgeon.checkpoint.lineage import Lineage, Parent
from surgeon.report.html import ReportPaths, write_report


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory, stories: Path) -> Path:
    """A run of four stages whose names, corpora and tokens are hostile."""
    folder = tmp_path_factory.mktemp("report") / "run"
    deep, wide = deepened(), extended(deepened())
    checkpoint(folder / "stages/deep", deep)
    shutil.copy(stories / "tokenizer.json", checkpoint(folder / "stages/wide", wide))
    checkpoint(folder / "stages/domain", trained(wide), metrics(40))
    evals = [{"step": s, "name": n, "nats_per_token": 2.0, "bits_per_byte": 1.5 - s / 100} for s in (0, 20, 40)
             for n in ("general", *HOSTILE[1:6:2])]  # fmt: skip
    models = [
        {"model": "base", "corpora": [corpus("general", 1.25, 0.31), corpus(HOSTILE[0], 2.5, 0.53)]},
        {"model": str(folder / "stages/domain"), "corpora": [corpus("general", 1.0, 0.31)]},
    ]
    stages: list[dict[str, Any]] = [
        {"name": "deep", "operation": "expand-layers", "key": "ab" * 32, "out": "stages/deep", "seconds": 0.5,
         "settings": {"add": 2, "model": "/somewhere/else/base"}, "result": {"parameters": 350123}},
        {"name": "wide", "operation": "extend-vocab", "key": "cd" * 32, "out": "stages/wide", "seconds": None,
         "settings": {"tokens": HOSTILE}, "result": {}},
        {"name": "domain", "operation": "cpt", "key": "ef" * 32, "out": "stages/domain", "seconds": 95.0,
         "settings": {"lr": 3e-4}, "result": {"steps": 40, "final_loss": 3.025, "mfu": None, "eval": evals}},
        {"name": HOSTILE[1], "operation": "evaluate", "key": "01" * 32, "out": None, "seconds": 4.0,
         "settings": {}, "result": {"models": models}},
    ]  # fmt: skip
    record = {"format": 1, "recipe": "x.yaml", "title": HOSTILE[0], "about": "One.\n\n" + HOSTILE[5], "stages": stages}
    (folder / "run.json").write_text(json.dumps(record), encoding="utf-8")
    return folder


@pytest.fixture(scope="module")
def report(run: Path) -> ReportPaths:
    return write_report(run)


def test_page_of_a_run_is_well_formed_and_loads_nothing(report: ReportPaths) -> None:
    text = report.html.read_text(encoding="utf-8")
    page = Page(text)
    assert page.open == []
    tags = {tag for tag, _ in page.elements}
    assert not tags & {"script", "img", "link", "iframe", "object", "embed", "image", "base"}
    for tag, attributes in page.elements:
        assert not [a for a in attributes if a.startswith("on") or a in ("src", "srcset", "action", "data")], tag
        references = [v for a, v in attributes.items() if a.endswith("href")]
        assert all(v is not None and v.startswith("#") for v in references), (tag, references)
    style = text[text.index("<style>") : text.index("</style>")]
    assert "url(" not in style and "@import" not in style
    assert text.count("http") == text.count("https://example.org/x.js"), "only the hostile token names an address"


def test_ids_are_unique_and_what_is_referred_to_is_there(report: ReportPaths) -> None:
    page = Page(report.html.read_text(encoding="utf-8"))
    ids = [a["id"] for _, a in page.elements if "id" in a]
    assert len(ids) == len(set(ids)) > 0
    for _, attributes in page.elements:
        for value in attributes.values():
            if value and value.startswith(("#t", "url(#")):
                assert value.removeprefix("url(").strip("#)") in ids


def test_hostile_texts_are_shown_as_text(report: ReportPaths) -> None:
    text = report.html.read_text(encoding="utf-8")
    page = Page(text)
    for token in (HOSTILE[0], HOSTILE[1], HOSTILE[2], HOSTILE[3], HOSTILE[4], HOSTILE[7]):
        assert token in page.text
    assert "\\x00\\x07\\n\\u202egnp.exe\\u2028" in page.text
    assert not set(text) & {"\x00", "\x07", "\u202e", "\u2028"}
    assert "49" not in page.text.split("{{ 7 * 7 }}")[1][:4]


def test_numbers_of_the_json_are_those_of_the_inputs(run: Path, report: ReportPaths) -> None:
    found = json.loads(report.json.read_text(encoding="utf-8"))
    record = json.loads((run / "run.json").read_text(encoding="utf-8"))
    assert found["stages"] == record["stages"]
    assert found["evaluations"][0]["models"] == record["stages"][3]["result"]["models"]
    assert found["training"][0]["steps"] == metrics(40)
    assert found["training"][0]["eval"] == record["stages"][2]["result"]["eval"]
    assert found["blocks"][0]["source"] == [0, 1, 1, 2, 3, 3, 4]
    sample = found["new_tokens"][0]["sample"]
    assert [t["token"] for t in sample] == (HOSTILE + [f"▁word{i}" for i in range(51)])[:50]
    assert (found["new_tokens"][0]["added"], len(sample)) == (60, 50)
    table = found["evaluations"][0]["table"]
    assert [row["model"] for row in table] == ["base", "domain"], "a stage's output is called by the stage's name"
    assert table[1]["corpora"][0] == {
        "name": "general", "bits_per_byte": 1.0, "change_percent": -20.0, "tokens_per_byte": 0.31
    }  # fmt: skip
    absent = {"name": HOSTILE[0], "bits_per_byte": None, "change_percent": None, "tokens_per_byte": None}
    assert table[1]["corpora"][1] == absent


def test_page_says_the_numbers(report: ReportPaths, stories: Path) -> None:
    page = Page(report.html.read_text(encoding="utf-8"))
    for expected in ("1.250", "-20.0%", "350,123", "1 min 35 s", "2 from 1 (zero)", "60 new tokens", "3.0250"):
        assert expected in page.text, expected
    assert "/somewhere" not in page.text, "folders of the machine stay in the JSON"
    assert page.count("rect", "new") == page.count("line", "new") == 2
    vocab = json.loads((stories / "tokenizer.json").read_text(encoding="utf-8"))["model"]["vocab"]
    pieces = {i: t for t, i in vocab.items()}
    assert f"{pieces[309]} {pieces[310]}" in page.text, "the old pieces of the tenth new token"


def test_same_numbers_give_the_same_bytes(run: Path, report: ReportPaths, tmp_path: Path) -> None:
    second = write_report(run, out=tmp_path / "new" / "place")
    assert second.html.parent == tmp_path / "new" / "place"
    assert report.html.read_bytes() == second.html.read_bytes()
    assert report.json.read_bytes() == second.json.read_bytes()
    assert not list(run.glob(".report*")), "nothing is left beside the report"


def test_a_users_matplotlibrc_does_not_change_the_bytes(run: Path, report: ReportPaths) -> None:
    import matplotlib

    first = report.html.read_bytes()
    with matplotlib.rc_context({"lines.linewidth": 9.0, "font.size": 30, "svg.fonttype": "path"}):
        assert write_report(run).html.read_bytes() == first
        assert matplotlib.rcParams["lines.linewidth"] == 9.0, "and the report does not change theirs"


def test_carried_metrics_belong_to_the_stage_that_wrote_them(tmp_path: Path) -> None:
    """A second training carries the first one's metrics along: its curve is its own."""
    parent, second = metrics(3), [m | {"loss": 1.0} for m in metrics(4)]
    one = checkpoint(tmp_path / "one", trained(deepened()), parent)
    two = checkpoint(tmp_path / "two", trained(trained(deepened())), second)
    shutil.copy(metrics_path(one, trained(deepened())), two / "surgeon")
    stages = [{"name": n, "operation": "cpt", "out": n} for n in ("one", "two")]
    record = {"format": 1, "recipe": "r", "title": "t", "stages": stages}
    (tmp_path / "run.json").write_text(json.dumps(record), encoding="utf-8")
    found = json.loads(write_report(tmp_path).json.read_text(encoding="utf-8"))
    assert [(t["title"], t["steps"]) for t in found["training"]] == [("one", parent), ("two", second)]


def test_metrics_of_a_recipes_input_are_not_a_stages(tmp_path: Path) -> None:
    """The model that a run starts from may have been trained before: its curve was not made by the run."""
    checkpoint(tmp_path / "two", trained(trained(deepened())), metrics(3), of=trained(deepened()))
    stages = [{"name": "two", "operation": "cpt", "out": "two"}]
    record = {"format": 1, "recipe": "r", "title": "t", "stages": stages}
    (tmp_path / "run.json").write_text(json.dumps(record), encoding="utf-8")
    found = json.loads(write_report(tmp_path).json.read_text(encoding="utf-8"))
    assert [(t["file"], t["steps"]) for t in found["training"]] == [(None, [])]


def test_merged_checkpoint_names_the_training_that_wrote_its_metrics(tmp_path: Path) -> None:
    """Two parents were each trained once; the metrics carried along are those of the second. A file of a training
    that the lineage does not know keeps its own name."""
    lines = metrics(4)
    lines.insert(0, {"step": 0, "tokens": 0, "eval": [{"step": 0, "name": "general", "bits_per_byte": 2.5}]})
    tuned = {name: trained(deepened(), {"note": name}) for name in ("instruct", "domain")}
    parents = [Parent(role=n, name=n, path="", digest=DIGEST, lineage=lineage) for n, lineage in tuned.items()]
    merged = Lineage(operation="merge-task-vectors", kind="training", parents=parents)
    unknown = trained(deepened(), {"note": "another"})
    for of, title, settings in (
        (tuned["domain"], "cpt 1", {"note": "domain"}),
        (unknown, metrics_path(tmp_path, unknown).stem, {}),
    ):
        folder = checkpoint(tmp_path / title, merged, lines, of=of)
        found = json.loads(write_report(folder).json.read_text(encoding="utf-8"))["training"]
        assert [(t["title"], t["settings"]) for t in found] == [(title, settings)]
        assert found[0]["eval"] == lines[0]["eval"]


def test_report_of_a_checkpoint(tmp_path: Path, stories: Path) -> None:
    lineage = trained(extended(deepened()), {"lr": 0.0003}).model_copy(
        update={"training": {"final_loss": 3.001, "steps": 1000}}
    )
    folder = checkpoint(tmp_path / "domain", lineage, metrics(1000))
    shutil.copy(stories / "tokenizer.json", folder)
    paths = write_report(folder, out=tmp_path)
    page = Page(paths.html.read_text(encoding="utf-8"))
    found = json.loads(paths.json.read_text(encoding="utf-8"))
    assert (found["kind"], found["title"]) == ("checkpoint", "domain")
    assert found["lineage"] == json.loads((folder / "surgeon.json").read_text(encoding="utf-8")) or (
        found["lineage"] | {"format": 1} == json.loads((folder / "surgeon.json").read_text(encoding="utf-8"))
    )
    assert found["training"][0]["steps"] == metrics(1000), "thinned for the plot only"
    assert "each point is the mean of 3 steps" in page.text
    for title in ("1. expand-layers", "2. extend-vocab", "cpt 1"):
        assert title in page.text
    assert (page.open, page.count("rect", "new")) == ([], 2)


def test_what_is_absent_is_shown_as_absent(tmp_path: Path) -> None:
    """Stages without result, time, output or key; a training without metrics; an evaluation of nothing."""
    stages = [
        {"name": "gone", "operation": "cpt", "out": "stages/gone"},
        {"name": "none", "operation": "evaluate", "result": {"models": []}},
        {"name": "bare", "operation": "evaluate", "result": {"models": [{"model": "m", "corpora": [{"name": "c"}]}]}},
    ]
    record = {"format": 1, "recipe": "r", "title": "t", "stages": stages}
    (tmp_path / "run.json").write_text(json.dumps(record), encoding="utf-8")
    paths = write_report(tmp_path)
    page = Page(paths.html.read_text(encoding="utf-8"))
    assert page.open == [] and "No steps were recorded" in page.text
    assert "None" not in page.text and "nan" not in page.text
    found = json.loads(paths.json.read_text(encoding="utf-8"))
    assert found["training"][0]["steps"] == [] and found["stages"] == stages


def test_a_training_that_diverged(tmp_path: Path) -> None:
    """Numbers that are not finite are gaps in the plot, counted, and words in the JSON."""
    lines = metrics(5)
    lines[3]["loss"], lines[4]["loss"] = math.nan, math.inf
    checkpoint(tmp_path / "m", trained(deepened()), lines)
    paths = write_report(tmp_path / "m")
    assert "2 steps had a loss that is not finite" in Page(paths.html.read_text(encoding="utf-8")).text
    steps = json.loads(paths.json.read_text(encoding="utf-8"))["training"][0]["steps"]
    assert [s["loss"] for s in steps] == [4.0, 3.5, 3.0 + 1 / 3, "nan", "inf"]


def test_a_lone_surrogate_neither_stops_the_report_nor_is_lost(tmp_path: Path) -> None:
    record = {"format": 1, "recipe": "r", "title": "t\ud800", "stages": []}
    (tmp_path / "run.json").write_text(json.dumps(record), encoding="utf-8")
    paths = write_report(tmp_path)
    assert "t\\ud800" in Page(paths.html.read_text(encoding="utf-8")).text
    assert json.loads(paths.json.read_text(encoding="utf-8"))["title"] == "t\ud800"


def test_the_scores_that_blocks_were_chosen_by_are_drawn(tmp_path: Path, stories: Path) -> None:
    from surgeon.expand.plan import ExpandSettings, plan_expand
    from surgeon.ops.execute import execute

    corpus = str(stories.parent / "general.valid.jsonl")
    settings = ExpandSettings(
        model=str(stories), out=tmp_path / "out", add=2, select="importance", probe=corpus, option={"tokens": 1000}
    )
    execute(plan_expand(settings), tmp_path / "out")
    paths = write_report(tmp_path / "out", out=tmp_path)
    page = Page(paths.html.read_text(encoding="utf-8"))
    assert "chosen by importance on general.valid" in page.text and "left alone" not in page.text
    assert ("svg", "Scores of blocks by importance") in {(t, a.get("aria-label")) for t, a in page.elements}
    assert page.open == []
    found = json.loads(paths.json.read_text(encoding="utf-8"))
    assert [s["block"] for s in found["blocks"][0]["probe"]["scores"]] == [0, 1, 2, 3, 4]

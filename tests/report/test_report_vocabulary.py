"""The vocabulary in a report: numbers of the evaluation and of the tokenizers, before an extension and after it."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
from report_folders import Page, checkpoint, deepened, extended

from surgeon.checkpoint.lineage import RowMap, read_lineage
from surgeon.errors import SurgeonError, UsageError
from surgeon.measure.perplexity import evaluate
from surgeon.ops.execute import execute
from surgeon.report.html import write_report
from surgeon.report.vocabulary import find_models, measure_vocabulary
from surgeon.train.run import run_cpt
from surgeon.train.settings import CptSettings
from surgeon.vocab.plan import plan_extend_vocab
from surgeon.vocab.settings import ExtendVocabSettings
from surgeon.words import share

TEXT = "Haemoglobin carries oxygen; haemophilia is a disorder of clotting. The haematologist measured haemoglobin.\n"
STORY = "Once upon a time there was a little girl named Lily. She loved to play outside in the park with her dog.\n"


@pytest.fixture(scope="module")
def models(stories: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """base, wide made from it, trained made from wide, and two corpora."""
    root = tmp_path_factory.mktemp("vocabulary")
    shutil.copytree(stories, root / "base")
    for name, text in (("medical", TEXT), ("stories", STORY)):
        lines = [json.dumps({"text": text * (n + 1)}) + "\n" for n in range(6)]
        (root / f"{name}.jsonl").write_text("".join(lines), encoding="utf-8")
    medical = str(root / "medical.jsonl")
    settings = ExtendVocabSettings(
        model=str(root / "base"), out=root / "wide", corpus=[medical], add=20, init="subword_mean"
    )
    execute(plan_extend_vocab(settings), root / "wide", threads=1)
    run_cpt(
        CptSettings.model_validate(
            {"model": str(root / "wide"), "out": str(root / "trained"), "data": [medical], "tokens": 512,
             "seq_len": 64, "batch_tokens": 128}
        )
    )  # fmt: skip
    return root


def data(models: Path) -> list[str]:
    return [f"med={models / 'medical.jsonl'}", f"old={models / 'stories.jsonl'}"]


def test_numbers_are_those_of_evaluate(models: Path) -> None:
    found = measure_vocabulary(models / "wide", data(models), after=models / "trained", tokens=300)
    names = ["base", "wide", "trained"]
    result = evaluate([str(models / n) for n in names], data(models), 300)
    assert found.models == dict(zip(("before", "step_0", "after_cpt"), names, strict=True))
    for number, corpus in enumerate(found.corpora):
        scores = [m["corpora"][number] for m in result["models"]]
        assert corpus.bits_per_byte == [s["bits_per_byte"] for s in scores]
        for side, score in zip((corpus.tokenization.before, corpus.tokenization.after), scores, strict=False):
            assert side.tokens == score["tokens"]
            assert side.tokens_per_word == score["tokens_per_word"]
            assert side.tokens_per_byte == score["tokens_per_byte"]
        assert corpus.tokenization.documents == scores[0]["documents"] < 6
        assert corpus.tokenization.bytes == scores[0]["bytes"]
    assert found.added == 20 and found.unreachable == []
    medical, old = (c.tokenization for c in found.corpora)
    assert medical.new_used > old.new_used and medical.same_documents == 0


def test_a_trained_model_finds_its_extension_by_itself(models: Path) -> None:
    assert measure_vocabulary(models / "trained", data(models), tokens=300) == measure_vocabulary(
        models / "wide", data(models), after=models / "trained", tokens=300
    )
    with pytest.raises(UsageError, match="itself made from the extension"):
        find_models(models / "trained", after=models / "trained")


def test_models_that_moved_or_are_others(models: Path, tmp_path: Path, stories: Path) -> None:
    away = tmp_path / "far" / "away" / "wide"
    shutil.copytree(models / "wide", away)
    with pytest.raises(SurgeonError, match="not where it was"):
        find_models(away)
    assert find_models(away, parent=models / "base").before == models / "base"
    with pytest.raises(SurgeonError, match="its digest differs"):
        find_models(away, parent=models / "wide")
    with pytest.raises(SurgeonError, match="was not made from 'wide'"):
        find_models(models / "wide", after=stories)
    alone = tmp_path / "far" / "off" / "trained"
    shutil.copytree(models / "trained", alone)
    with pytest.raises(SurgeonError, match="'wide' is not where it was") as refused:
        find_models(alone)
    assert "--parent" in refused.value.hint
    found = find_models(alone, parent=models / "base")
    assert (found.before, found.step_0, found.after) == (models / "base", None, alone)
    with pytest.raises(SurgeonError, match="nothing is recorded"):
        find_models(models / "base")
    with pytest.raises(SurgeonError, match="names no vocabulary extension"):
        find_models(checkpoint(tmp_path / "deep", deepened()))


def test_page_and_json_say_the_numbers(models: Path, tmp_path: Path) -> None:
    found = measure_vocabulary(models / "wide", data(models), after=models / "trained", tokens=300)
    first = write_report(models / "wide", out=tmp_path / "a", vocabulary=found)
    again = write_report(models / "wide", out=tmp_path / "b", vocabulary=found)
    assert first.html.read_bytes() == again.html.read_bytes()
    numbers = json.loads(first.json.read_text(encoding="utf-8"))["vocabulary"]
    assert numbers == json.loads(json.dumps(found.to_json()))
    page = Page(first.html.read_text(encoding="utf-8"))
    assert page.open == [] and page.count("svg", "plot") >= 1
    ids = [a["id"] for _, a in page.elements if "id" in a]
    assert len(ids) == len(set(ids))
    for corpus in found.corpora:
        for bits in corpus.bits_per_byte:
            assert f"{bits:.3f}" in page.text
        assert f"{corpus.tokenization.after.renyi_efficiency:.4f}" in page.text
        assert share(corpus.tokenization.same_sentences) in page.text
    assert "0 of the new tokens cannot be reached" in page.text
    assert "before is base, step 0 is wide, after cpt is trained." in page.text


def _with(tmp_path: Path, **rows: Any) -> Path:
    lineage = extended(deepened())
    assert lineage.rows is not None
    changed = RowMap.model_validate(lineage.rows.model_dump() | rows)
    return checkpoint(tmp_path / "wide", lineage.model_copy(update={"rows": changed}))


def test_what_the_lineage_remembers_needs_no_texts(tmp_path: Path) -> None:
    curve, calibration = [[0, 9000], [500, 7000], [1000, 6500]], {"loss": 0.0123, "share": 0.25}
    folder = _with(tmp_path, learning={"curve": curve}, calibration=calibration)
    report = write_report(folder)
    numbers = json.loads(report.json.read_text(encoding="utf-8"))["vocabulary"]
    assert (numbers["curve"], numbers["calibration"], numbers["corpora"]) == (curve, calibration, [])
    page = Page(report.html.read_text(encoding="utf-8"))
    assert page.open == [] and "tokens of the corpus" in page.text and "tokens added" in page.text
    assert "loss 0.0123" in page.text and "share 0.25" in page.text


def test_nothing_remembered_is_no_section(tmp_path: Path) -> None:
    page = Page(write_report(_with(tmp_path)).html.read_text(encoding="utf-8"))
    assert "Vocabulary" not in page.text and "New tokens" in page.text
    with pytest.raises(SurgeonError, match="curve of the learning cannot be read"):
        write_report(_with(tmp_path / "x", learning={"curve": [["a", 1]]}))


@pytest.mark.parametrize(
    ("value", "text"), [(1.0, "100.0%"), (0.99999, "<100%"), (0.5, "50.0%"), (0.0, "0.0%"), (None, "–")]
)
def test_a_share_is_never_rounded_to_all(value: float | None, text: str) -> None:
    assert share(value) == text


def test_the_command(models: Path, tmp_path: Path) -> None:
    from typer.testing import CliRunner

    from surgeon.cli.app import build

    wide = str(models / "wide")
    words = [
        "report",
        wide,
        "--data",
        data(models)[0],
        "--tokens",
        "100",
        "--out",
        str(tmp_path / "r"),
        "--json",
        "--quiet",
    ]
    done = CliRunner().invoke(build(), words)
    assert done.exit_code == 0, done.output
    said = json.loads(done.stdout)
    assert Path(said["html"]).is_file() and said["vocabulary"]["corpora"][0]["name"] == "med"
    assert read_lineage(models / "wide") is not None
    lonely = CliRunner().invoke(build(), ["report", wide, "--tokens", "5k", "--out", str(tmp_path / "s")])
    assert isinstance(lonely.exception, UsageError) and "add --data" in lonely.exception.hint

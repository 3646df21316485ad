"""Of a table only the columns that are asked for are read: what others hold is in nobody's way."""

from __future__ import annotations

from pathlib import Path

import pytest

from surgeon.data.order import scores
from surgeon.data.source import Corpus, documents, parse_corpus
from surgeon.errors import SurgeonError

pyarrow = pytest.importorskip("pyarrow")
parquet = pytest.importorskip("pyarrow.parquet")


def table(path: Path, **columns: object) -> Path:
    parquet.write_table(pyarrow.table({"text": ["one", "two"], **columns}), path)
    return path


def texts(path: Path) -> list[str | None]:
    return [d.text for d in documents(Corpus("c", path))]


def test_times_that_python_does_not_know(tmp_path: Path) -> None:
    early = pyarrow.array([-(10**18), 0], pyarrow.timestamp("us"))
    late = pyarrow.array([10**9, 0], pyarrow.date32())
    place = pyarrow.array([0, 1], pyarrow.timestamp("us", "Mars/Base"))
    assert texts(table(tmp_path / "a.parquet", early=early, late=late, place=place)) == ["one", "two"]


def test_the_column_of_scores_is_read_where_it_is_asked_for(tmp_path: Path) -> None:
    early = pyarrow.array([-(10**18), 0], pyarrow.timestamp("us"))
    path = table(tmp_path / "a.parquet", early=early, q=[2.5, 1.0])
    assert scores(Corpus("c", path), "q", 2).tolist() == [2.5, 1.0]


def test_a_refusal_names_the_columns_that_there_are(tmp_path: Path) -> None:
    parquet.write_table(pyarrow.table({"content": ["one"], "url": ["a"]}), tmp_path / "a.parquet")
    with pytest.raises(SurgeonError, match=r"it has content, url"):
        texts(tmp_path / "a.parquet")


def test_two_columns_of_the_same_name_are_refused(tmp_path: Path) -> None:
    twice = pyarrow.Table.from_arrays([pyarrow.array(["a"]), pyarrow.array(["b"])], names=["text", "text"])
    parquet.write_table(twice, tmp_path / "a.parquet")
    with pytest.raises(SurgeonError, match="two columns 'text'"):
        texts(tmp_path / "a.parquet")


@pytest.mark.parametrize(
    "strings",
    [
        pyarrow.array(["one", "two"], pyarrow.large_string()),
        pyarrow.array(["one", "two"], pyarrow.string_view()),
        pyarrow.array(["one", "two"]).dictionary_encode(),
    ],
)
def test_every_type_of_strings(tmp_path: Path, strings: object) -> None:
    try:
        parquet.write_table(pyarrow.table({"text": strings}), tmp_path / "a.parquet", row_group_size=1)
    except pyarrow.ArrowNotImplementedError as error:  # string_view in pyarrow 17
        pytest.skip(f"this pyarrow does not write it: {error}")
    assert texts(tmp_path / "a.parquet") == ["one", "two"]


def test_pictures_of_a_dataset_are_not_decoded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    datasets = pytest.importorskip("datasets")
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", str(tmp_path / "cache"))
    held = {"text": ["one", "two"], "picture": [{"bytes": b"no picture", "path": None}] * 2}
    features = datasets.Features({"text": datasets.Value("string"), "picture": datasets.Image()})
    (tmp_path / "texts").mkdir()
    datasets.Dataset.from_dict(held, features).to_parquet(str(tmp_path / "texts" / "train.parquet"))
    for text, wanted in ((f"hf:{tmp_path / 'texts'}", "one"), (f"{tmp_path / 'texts'}", "one")):
        assert next(documents(parse_corpus(text))).text == wanted
    with pytest.raises(SurgeonError, match=r"it has text, picture"):
        next(documents(parse_corpus(f"hf:{tmp_path / 'texts'}", text_field="body")))

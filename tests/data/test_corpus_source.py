"""Corpora are read as they are, or refused with the file and the line."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from surgeon.data.numbers import parse_count
from surgeon.data.source import Corpus, corpus_digest, documents, parse_corpus
from surgeon.errors import SurgeonError, UsageError


def write(path: Path, *records: object) -> Path:
    path.write_text("".join(json.dumps(r, ensure_ascii=False) + "\n" for r in records), encoding="utf-8")
    return path


def texts(path: Path, **options: object) -> list[str | None]:
    return [d.text for d in documents(Corpus("c", path, **options))]  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("100", 100),
        (7, 7),
        ("32k", 32_000),
        ("1.5M", 1_500_000),
        ("2B", 2_000_000_000),
        ("1_000", 1000),
        ("1e6", 10**6),
    ],
)
def test_counts(text: object, value: int) -> None:
    assert parse_count(text) == value


@pytest.mark.parametrize("text", ["", "k", "1.5", "-3", "10 MB", "1.0001k", None, True, 2.5])
def test_what_is_not_a_count(text: object) -> None:
    with pytest.raises(ValueError, match=r"count|whole"):
        parse_count(text)


def test_names_and_weights(tmp_path: Path) -> None:
    path = write(tmp_path / "law.train.jsonl", {"text": "a"})
    assert parse_corpus(str(path)) == Corpus("law.train", path)
    assert parse_corpus(f"law={path}") == Corpus("law", path)
    assert parse_corpus(f"law={path}:0.3") == Corpus("law", path, 0.3)
    assert parse_corpus(f"{path}:2").weight == 2.0


def test_a_path_with_a_colon_or_an_equals_sign_wins(tmp_path: Path) -> None:
    odd = write(tmp_path / "a=b:5", {"text": "a"}).rename(tmp_path / "a=b:5")
    assert parse_corpus(str(odd)).path == odd
    assert parse_corpus(str(odd)).weight is None


def test_a_tail_that_is_no_number_belongs_to_the_path() -> None:
    with pytest.raises(SurgeonError, match="no such corpus") as error:
        parse_corpus(r"law=C:\texts\law.jsonl")
    assert error.value.where == r"C:\texts\law.jsonl"


def test_weights_must_be_positive_and_wanted(tmp_path: Path) -> None:
    path = write(tmp_path / "a.jsonl", {"text": "a"})
    with pytest.raises(UsageError):
        parse_corpus(f"a={path}:0")
    with pytest.raises(UsageError):
        parse_corpus(f"a={path}:0.5", weighted=False)
    with pytest.raises(UsageError, match="must be a number"):
        parse_corpus(f"a={path}:1e999")


def test_a_folder_is_called_by_its_name_wherever_one_stands(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "law").mkdir()
    write(tmp_path / "law" / "a.jsonl", {"text": "a"})
    monkeypatch.chdir(tmp_path / "law")
    assert parse_corpus(".").name == "law"
    assert parse_corpus("../law/").name == "law"


def test_every_kind_of_file_and_a_folder_in_order(tmp_path: Path) -> None:
    write(tmp_path / "b.jsonl", {"text": "two"}, {"text": "three"})
    (tmp_path / "a.txt").write_text("one\nand a line\n", encoding="utf-8")
    (tmp_path / "readme.md").write_text("not a corpus")
    (tmp_path / "sub").mkdir()
    (tmp_path / "sub" / "c.txt").write_text("four", encoding="utf-8")
    assert texts(tmp_path) == ["one\nand a line\n", "two", "three", "four"]
    assert texts(tmp_path / "a.txt", lines=True) == ["one", "and a line"]


def test_parquet(tmp_path: Path) -> None:
    pyarrow = pytest.importorskip("pyarrow")
    parquet = pytest.importorskip("pyarrow.parquet")
    parquet.write_table(pyarrow.table({"body": ["x", "y"]}), tmp_path / "a.parquet")
    assert texts(tmp_path / "a.parquet", text_field="body") == ["x", "y"]
    (tmp_path / "b.parquet").write_bytes(b"PAR1 no")
    with pytest.raises(SurgeonError, match="parquet"):
        texts(tmp_path / "b.parquet")


def test_instruction_records_are_recognised_and_do_not_mix(tmp_path: Path) -> None:
    record = {"instruction": "Add.", "input": "1 2", "output": "3"}
    found = list(documents(Corpus("c", write(tmp_path / "a.jsonl", record))))
    assert found[0].messages[0]["content"] == "Add.\n\n1 2"
    assert found[0].messages[1] == {"role": "assistant", "content": "3"}
    with pytest.raises(SurgeonError, match="no text in its field") as error:
        texts(write(tmp_path / "b.jsonl", {"text": "a"}, record))
    assert error.value.where.endswith("b.jsonl:2")
    with pytest.raises(SurgeonError, match="instruction record"):
        texts(write(tmp_path / "c.jsonl", record, {"text": "a"}))


def test_a_folder_of_texts_and_of_instruction_records_is_refused(tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_text("a text")
    write(tmp_path / "b.jsonl", {"instruction": "Add.", "input": "1 2", "output": "3"})
    with pytest.raises(SurgeonError, match="do not mix in one corpus") as error:
        texts(tmp_path)
    assert error.value.where.endswith("b.jsonl:1")


@pytest.mark.parametrize("value", [0, False, [], {}])
def test_an_input_that_is_no_text_is_refused(tmp_path: Path, value: object) -> None:
    path = write(tmp_path / "a.jsonl", {"instruction": "Add.", "input": value, "output": "3"})
    with pytest.raises(SurgeonError, match="needs the texts"):
        texts(path)


@pytest.mark.parametrize(
    ("raw", "problem", "line"),
    [
        (b'{"text": "a"}\n{"text": "\xff"}\n', "UTF-8", 2),
        (b'{"text": "a"}\n{"text": \n', "JSON", 2),
        (b'{"text": "a"}\n[1]\n', "not a JSON object", 2),
        (b'{"txt": "a"}\n', "no text in its field 'text'", 1),
        (b'{"text": "  "}\n', "empty", 1),
        (b'{"text": "\\ud800"}\n', "surrogate", 1),
        (b'{"instruction": "a", "output": "\\ud83d"}\n', "surrogate", 1),
        (b'{"text": 3}\n', "holds int 3 in place of text", 1),
        (b'{"text": "a"}\n{"text": null}\n', "holds null in place of text", 2),
    ],
)
def test_broken_lines_are_refused_with_their_number(tmp_path: Path, raw: bytes, problem: str, line: int) -> None:
    path = tmp_path / "a.jsonl"
    path.write_bytes(raw)
    with pytest.raises(SurgeonError, match=problem) as error:
        texts(path)
    assert error.value.where == f"{path}:{line}"


def test_a_broken_text_file_names_the_line(tmp_path: Path) -> None:
    path = tmp_path / "a.txt"
    path.write_bytes(b"one\ntwo\n\xe9t\xe9\n")
    with pytest.raises(SurgeonError, match="line 3 is not valid UTF-8"):
        texts(path)


@pytest.mark.parametrize("raw", [b"", b"\n\n"])
def test_a_corpus_without_text_is_refused(tmp_path: Path, raw: bytes) -> None:
    for name in ("a.jsonl", "a.txt"):
        (tmp_path / name).write_bytes(raw)
        with pytest.raises(SurgeonError, match="holds no text"):
            texts(tmp_path / name)


def test_what_is_not_there_or_not_read(tmp_path: Path) -> None:
    (tmp_path / "a.csv").write_text("a,b")
    with pytest.raises(SurgeonError, match="kind of file"):
        texts(tmp_path / "a.csv")
    with pytest.raises(SurgeonError, match="no corpus file"):
        texts(tmp_path)


def test_the_digest_is_of_the_content(tmp_path: Path) -> None:
    (tmp_path / "x").mkdir()
    one, two = write(tmp_path / "a.jsonl", {"text": "a"}), write(tmp_path / "x" / "b.jsonl", {"text": "a"})
    assert corpus_digest(Corpus("c", one)) == corpus_digest(Corpus("d", two))
    write(two, {"text": "b"})
    assert corpus_digest(Corpus("c", one)) != corpus_digest(Corpus("d", two))


def test_a_mark_of_the_byte_order_is_no_text(tmp_path: Path) -> None:
    """U+FEFF before the first character says how a file is written; further on it is a character of the text."""
    mark = b"\xef\xbb\xbf"
    for name, raw in (("a.jsonl", b'{"text": "a"}\r\n{"text": "b"}\n'), ("a.txt", b"a\r\nb\n")):
        (tmp_path / name).write_bytes(mark + raw)
        assert texts(tmp_path / name, lines=True) == ["a", "b"]
    assert texts(tmp_path / "a.txt") == ["a\nb\n"]
    (tmp_path / "b.txt").write_bytes(mark + b"a\n" + mark + b"b\n")
    assert texts(tmp_path / "b.txt", lines=True) == ["a", "\ufeffb"]
    (tmp_path / "c.txt").write_bytes(mark)
    with pytest.raises(SurgeonError, match="no text"):
        texts(tmp_path / "c.txt")

"""Corpora as people name them, and the documents in them, read strictly."""

from __future__ import annotations

import json
import math
import re
import sys
import unicodedata
from codecs import BOM_UTF8
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from string import whitespace
from typing import Any, Literal

from surgeon.checkpoint.digest import json_digest
from surgeon.data.compressed import lines_of, plain_kind, plain_name, unpacked
from surgeon.data.folders import check_kind, corpus_files
from surgeon.data.hub import PREFIX, HubDataset, hub_files, hub_records, parse_hub
from surgeon.data.known_files import known_file_digests
from surgeon.data.parquet import parquet_records
from surgeon.errors import SurgeonError, UsageError
from surgeon.settings import from_home

Format = Literal["auto", "text", "instruct"]
_RECORD = ("messages", "instruction", "input", "output")
_WEIGHT = re.compile(r"^\d+(\.\d+)?([eE][+-]?\d+)?$", re.ASCII)


@dataclass(frozen=True)
class Corpus:
    """A named source of documents. weight: relative share of tokens where weights are taken (None: by its size).

    text_field: the field of .jsonl and .parquet records. lines: a .txt file holds a document a line.
    format: `text`, `instruct` (records with instruction/input/output or messages), or `auto`: as the first record.
    score_field: a field of every record that holds a number, read as the document's score. hub: a dataset that the
    datasets library reads; then `path` is only its name.
    """

    name: str
    path: Path
    weight: float | None = None
    text_field: str = "text"
    lines: bool = False
    format: Format = "auto"
    score_field: str | None = None
    hub: HubDataset | None = None


@dataclass(frozen=True, slots=True)
class Document:
    """One document: either its text, or the messages of a conversation ({"role", "content"}, in order).
    score: the number in the corpus' score field; not a number where none is read."""

    where: str
    text: str | None = None
    messages: tuple[dict[str, str], ...] = ()
    score: float = math.nan


def _is_name(text: str) -> bool:
    """Letters of any script with their marks, digits and `_.-`; a letter or a digit first."""
    return text[:1].isalnum() and all(c.isalnum() or c in "_.-" or unicodedata.category(c)[0] == "M" for c in text)


def parse_corpus(
    text: str, *, text_field: str = "text", lines: bool = False, format: Format = "auto", weighted: bool = True
) -> Corpus:
    """`PATH`, `NAME=PATH` or `NAME=PATH:WEIGHT`; the tail after the last colon is a weight only if it is a number.

    A path that exists as written wins over any other reading. Without a name, the file's name without its suffix.
    `hf:` in the place of a path: see surgeon.data.hub.
    """
    name, weight, path = "", None, text
    hub = None
    if not Path(text).exists():
        left, equals, right = text.partition("=")
        if equals and _is_name(left):
            name, path = left, right
        path = from_home(path)
        if path.startswith(PREFIX):
            hub, weight = parse_hub(path)
            path = str(hub)
        head, colon, tail = path.rpartition(":")
        if hub is None and colon and head and _WEIGHT.match(tail) and not Path(path).exists():
            path, weight = head, float(tail)
    if weight is not None and (not 0 < weight < math.inf or not weighted):
        problem = "a weight must be a number above zero" if weighted else "a weight has no meaning here"
        raise UsageError(problem, text, "write NAME=PATH" + (":WEIGHT, such as 0.3" if weighted else ""))
    if not path:
        raise UsageError("the corpus has no path", text, "write PATH or NAME=PATH[:WEIGHT]")
    found = Path(path)
    if hub is not None:
        return Corpus(name or Path(hub.name).name, found, weight, text_field, lines, format, hub=hub)
    if not found.exists():
        raise SurgeonError(
            "there is no such corpus", path, "give a .jsonl, .txt or .parquet file, or a folder of them"
        )
    default = plain_name(found) if found.is_file() else found.name or found.resolve().name  # the name of `.` is empty
    return Corpus(name or default, found, weight, text_field, lines, format)


def files(corpus: Corpus) -> list[Path]:
    """The files of a corpus: itself, or those below a folder (see surgeon.data.folders)."""
    if corpus.hub is not None:
        return hub_files(corpus.hub)
    if corpus.path.is_dir():
        return corpus_files(corpus.path)
    if not corpus.path.is_file():
        raise SurgeonError("there is no such corpus", str(corpus.path), "check the path")
    check_kind(corpus.path)
    return [corpus.path]


def corpus_digest(corpus: Corpus) -> str:
    """Of the contents of its files in order, and of how they are read; where they lie does not matter."""
    how: list[Any] = [corpus.text_field, corpus.lines, corpus.format]
    if corpus.hub is not None:
        how.append(["hub", corpus.hub.split])  # a part of a split is read from the files of all of it
    return json_digest([known_file_digests(files(corpus)), how])


def documents(corpus: Corpus) -> Iterator[Document]:
    """The documents in order. Refuses broken files, records without text, texts beside conversations, and a corpus
    without any document."""
    form, count, is_text = corpus.format, 0, None
    for path in [corpus.path] if corpus.hub is not None else files(corpus):
        for where, record in _records(path, corpus):
            if isinstance(record, str):
                document = _text(record, where, path)
            else:
                form = _form(record, corpus) if form == "auto" else form
                document = _from_record(record, corpus, form, where)
            if is_text is not None and is_text != (document.text is not None):
                raise SurgeonError(
                    "texts and instruction records do not mix in one corpus", where, "give them as two corpora"
                )
            is_text = document.text is not None
            if corpus.score_field is not None:
                document = replace(document, score=_score(record, corpus.score_field, where))
            count += 1
            yield document
    if not count:
        raise SurgeonError("the corpus holds no text", str(corpus.path), "give a corpus with at least one document")


def _records(path: Path, corpus: Corpus) -> Iterator[tuple[str, dict[str, Any] | str]]:
    kind = "" if corpus.hub is not None else plain_kind(path)
    fields = {corpus.text_field, *_RECORD} | ({corpus.score_field} if corpus.score_field is not None else set())
    if corpus.hub is not None:
        yield from hub_records(corpus.hub, fields)
    elif kind == ".parquet":
        yield from parquet_records(path, fields)
    elif kind == ".txt" and not corpus.lines:
        with unpacked(path) as file:
            raw = file.read().removeprefix(BOM_UTF8)
        if raw.strip():
            yield str(path), _newlines(_decode(raw, path, 1))
    else:
        for number, raw in enumerate(lines_of(path), 1):
            # the mark before a file's first character says how it is written, and is no part of the text
            raw = raw.removeprefix(BOM_UTF8) if number == 1 else raw
            if not raw.strip():
                continue  # a blank line separates, it is not a document
            line = _decode(raw, path, number).rstrip("\r\n")
            if kind == ".txt":
                parts = _newlines(line).split("\n")
                yield from ((f"{path}:{number}", part) for part in parts if part.strip(whitespace))
            else:
                yield f"{path}:{number}", _object(line, path, number)


def _newlines(text: str) -> str:
    """As Python and the datasets library read a text: how its lines end is a matter of the file, not of the text."""
    return text.replace("\r\n", "\n").replace("\r", "\n")


def _decode(raw: bytes, path: Path, first_line: int) -> str:
    try:
        return raw.decode("utf-8")
    except UnicodeDecodeError as error:
        line = first_line + raw[: error.start].count(b"\n")
        raise SurgeonError(
            f"line {line} is not valid UTF-8 (byte 0x{raw[error.start]:02x})",
            f"{path}:{line}",
            "convert the file once, for example with `iconv -f latin1 -t utf-8`",
        ) from error


def _object(line: str, path: Path, number: int) -> dict[str, Any]:
    try:
        record = json.loads(line)
    except (ValueError, RecursionError) as error:
        raise SurgeonError(
            f"line {number} is not valid JSON: {error}", f"{path}:{number}", "write one JSON object a line"
        ) from error
    if not isinstance(record, dict):
        raise SurgeonError(f"line {number} is not a JSON object", f"{path}:{number}", "write one JSON object a line")
    return record


def _form(record: dict[str, Any], corpus: Corpus) -> Format:
    if corpus.text_field not in record and ("messages" in record or {"instruction", "output"} <= record.keys()):
        return "instruct"
    return "text"


def _from_record(record: dict[str, Any], corpus: Corpus, form: Format, where: str) -> Document:
    if form == "text":
        text = record.get(corpus.text_field)
        if not isinstance(text, str):
            if corpus.text_field in record:
                raise SurgeonError(
                    f"the field {corpus.text_field!r} of the record holds {_kind(text)} in place of text",
                    where,
                    "leave such records out of the corpus, or name another field with --text-field",
                )
            raise SurgeonError(
                f"the record has no text in its field {corpus.text_field!r} (it has {', '.join(record) or 'none'})",
                where,
                "name the right one with --text-field; text and instruction records do not mix in one corpus",
            )
        return _text(text, where, corpus.path)
    if "messages" in record:
        messages = record["messages"]
        valid = isinstance(messages, list) and all(
            isinstance(m, dict) and isinstance(m.get("role"), str) and isinstance(m.get("content"), str)
            for m in messages
        )
        if not valid or not any(m["role"] == "assistant" and m["content"].strip() for m in messages):
            raise SurgeonError(
                "`messages` is not a list of {role, content} with an answer of the assistant", where, "mend the record"
            )
        return _conversation(where, corpus.path, messages)
    instruction, extra, output = (record.get(key, "") for key in ("instruction", "input", "output"))
    if (
        not all(isinstance(v, str) for v in (instruction, "" if extra is None else extra, output))
        or not instruction
        or not output.strip()
    ):
        raise SurgeonError(
            "an instruction record needs the texts `instruction` and `output`",
            where,
            "mend the record; text and instruction records do not mix in one corpus",
        )
    asked = f"{instruction}\n\n{extra}" if extra else instruction
    answered = ({"role": "user", "content": asked}, {"role": "assistant", "content": output})
    return _conversation(where, corpus.path, answered)


def _kind(value: Any) -> str:
    return "null" if value is None else f"{type(value).__name__} {value!r}"[:80]


def _score(record: dict[str, Any] | str, field: str, where: str) -> float:
    value = None if isinstance(record, str) else record.get(field)
    if isinstance(value, bool) or not isinstance(value, int | float) or not abs(value) <= sys.float_info.max:
        has = "a text without fields" if isinstance(record, str) else f"it has {', '.join(record)}"
        raise SurgeonError(
            f"the record has no number in its field {field!r} ({has})",
            where,
            "score every record of --data; records of --replay need none",
        )
    return float(value)


def _text(text: str, where: str, path: Path) -> Document:
    if not text.strip():
        raise SurgeonError("the document is empty", where, "remove the record")
    _check_whole(text, where, path)
    return Document(where, text)


def _conversation(where: str, path: Path, messages: Iterable[dict[str, str]]) -> Document:
    kept = tuple({"role": m["role"], "content": m["content"]} for m in messages)
    for message in kept:
        _check_whole(message["role"] + message["content"], where, path)
    return Document(where, None, kept)


def _check_whole(text: str, where: str, path: Path) -> None:
    """JSON can spell half of a surrogate pair, which no tokenizer can encode."""
    try:
        text.encode("utf-8")
    except UnicodeEncodeError as error:
        raise SurgeonError("the text holds half of a surrogate pair", where, f"mend the record in {path}") from error

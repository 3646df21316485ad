"""The files of a corpus that lie in a folder: all of them, or a refusal."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

from surgeon.data.compressed import COMPRESSIONS, kind_of
from surgeon.errors import SurgeonError

SUFFIXES = (".jsonl", ".txt", ".parquet")
_KINDS = (*SUFFIXES, *(kind + packed for kind in (".jsonl", ".txt") for packed in COMPRESSIONS))
_UNREAD = (*COMPRESSIONS, ".lz4", ".zstd", ".lzma", ".z", ".br", ".snappy", ".zip", ".7z")


def corpus_files(folder: Path) -> list[Path]:
    """Every file below a folder that is one of SUFFIXES, compressed or not, ordered by relative path; links are
    followed.

    What is hidden (its name, or a folder's on the way, begins with a dot) is no part of a corpus, as for the datasets
    library: copies that editors keep, halves of downloads. Refuses a link that leads nowhere or to a folder it is in,
    a file of a corpus that is compressed in another way, and a folder without any.
    """
    found = list(_below(folder, ()))
    if not found:
        raise SurgeonError(
            "the folder holds no corpus file", str(folder), f"expected one of {', '.join(SUFFIXES)} in it"
        )
    return sorted(found, key=lambda path: path.relative_to(folder).as_posix())


def _below(folder: Path, above: tuple[str, ...]) -> Iterator[Path]:
    real = os.path.realpath(folder)
    if real in above:
        raise SurgeonError("the folder leads to itself through a link", str(folder), "remove the link")
    for path in folder.iterdir():
        if path.name.startswith("."):
            continue
        if path.is_dir():
            yield from _below(path, (*above, real))
        elif kind_of(path) in _KINDS:
            if not path.exists():
                raise SurgeonError("the link leads nowhere", str(path), "mend it, or remove it")
            if path.is_file():
                yield path
        elif path.suffix.lower() in _UNREAD and _innermost(path) in (*SUFFIXES, ".json"):
            check_kind(path)


def _innermost(path: Path) -> str:
    """The suffix of what is left when all is unpacked."""
    while path.suffix.lower() in _UNREAD:
        path = Path(path.stem)
    return path.suffix.lower()


def check_kind(path: Path) -> None:
    """Refuse a file that is not read as a corpus, by its name."""
    if kind_of(path) in _KINDS:
        return
    inner = Path(path.stem).suffix.lower()
    if path.suffix.lower() not in _UNREAD:
        raise SurgeonError(
            f"the kind of file {path.suffix or 'without a suffix'} is not read as a corpus",
            str(path),
            f"give one of {', '.join(SUFFIXES)}",
        )
    hint = f"unpack it, or compress it anew as one of {', '.join(COMPRESSIONS)}"
    if inner == ".json":
        hint = f"if it holds a JSON object a line, name it {Path(path.stem).stem}.jsonl{path.suffix}"
    elif inner == ".parquet":
        hint = "unpack it: what is in it is compressed already"
    elif inner in _UNREAD:
        hint = "it is packed twice: unpack it once"
    elif inner == ".tar":
        hint = "unpack it, and give the folder"
    elif inner not in SUFFIXES:
        hint = f"name it by what it holds: {path.stem}.jsonl{path.suffix}"
    raise SurgeonError(f"the kind of file {inner}{path.suffix} is not read as a corpus", str(path), hint)

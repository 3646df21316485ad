"""The files of a corpus that lie in a folder: all of them, or a refusal."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

from surgeon.errors import SurgeonError

SUFFIXES = (".jsonl", ".txt", ".parquet")
PACKED = (".gz", ".bz2", ".xz", ".zst", ".lz4")
UNPACK = "unpack it, or give its folder as hf:FOLDER, which the datasets library reads"


def corpus_files(folder: Path) -> list[Path]:
    """Every file below a folder whose suffix is one of SUFFIXES, ordered by relative path; links are followed.

    What is hidden (its name, or a folder's on the way, begins with a dot) is no part of a corpus, as for the datasets
    library: copies that editors keep, halves of downloads. Refuses a link that leads nowhere or to a folder it is in,
    a compressed file of a corpus, and a folder without any.
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
        suffixes = [suffix.lower() for suffix in path.suffixes[-2:]]
        if path.name.startswith("."):
            continue
        if path.is_dir():
            yield from _below(path, (*above, real))
        elif suffixes[-1:] and suffixes[-1] in SUFFIXES:
            if not path.exists():
                raise SurgeonError("the link leads nowhere", str(path), "mend it, or remove it")
            if path.is_file():
                yield path
        elif len(suffixes) == 2 and suffixes[0] in (*SUFFIXES, ".json") and suffixes[1] in PACKED:
            raise SurgeonError("a compressed file is not read as a corpus", str(path), UNPACK)

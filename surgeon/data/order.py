"""The order in which a corpus is read: shuffled, as it is, or by a number that every record carries."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from surgeon.checkpoint.digest import json_digest
from surgeon.data.compressed import kind_of
from surgeon.data.known_files import MIN_BYTES, settled
from surgeon.data.source import Corpus, corpus_digest, documents, files
from surgeon.data.store import stored
from surgeon.data.token_cache import changed, check_unchanged, code_digests
from surgeon.errors import SurgeonError, UsageError

FORMS = "shuffled, sequential, ascending:FIELD or descending:FIELD"


@dataclass(frozen=True)
class Order:
    """How a corpus is read; field: of the records, for ascending and descending."""

    kind: Literal["shuffled", "sequential", "ascending", "descending"]
    field: str = ""


SHUFFLED = Order("shuffled")


def parse_order(text: str) -> Order:
    """One of FORMS, exactly."""
    kind, colon, field = text.partition(":")
    if not colon and kind in ("shuffled", "sequential"):
        return Order(kind)  # type: ignore[arg-type]
    if kind in ("ascending", "descending") and field.strip():
        return Order(kind, field)  # type: ignore[arg-type]
    raise UsageError(f"{text!r} is not an order", "--order", f"write {FORMS}")


def ranking(corpus: Corpus, order: Order, num_documents: int) -> NDArray[np.int64] | None:
    """The numbers of the documents in the order in which every epoch reads them; int64 [documents]; None: shuffled.

    Documents of equal score stay in the order of the corpus. Raises SurgeonError where a record has no such number.
    """
    if order.kind == "shuffled":
        return None
    if order.kind == "sequential":
        return np.arange(num_documents, dtype=np.int64)
    values = scores(corpus, order.field, num_documents)
    return np.argsort(values if order.kind == "ascending" else -values, kind="stable")


def scores(corpus: Corpus, field: str, num_documents: int) -> NDArray[np.float64]:
    """The number in `field` of every record; float64 [documents]. Kept in the cache as tokens are. Raises SurgeonError
    where there are not as many as documents: the corpus has changed since those were read, or the cache is broken."""
    before = settled(files(corpus))
    scored = replace(corpus, score_field=field)

    def read() -> NDArray[np.float64]:
        found = np.fromiter((document.score for document in documents(scored)), dtype=np.float64)
        check_unchanged(corpus, before)
        if len(found) != num_documents:
            raise changed(corpus)
        return found

    if sum(mark[2] for mark in before) < MIN_BYTES:
        return read()

    def make(folder: Path) -> None:
        read().tofile(folder / "scores.f64")

    kinds = [kind_of(path) for path in files(corpus)]
    key = json_digest([code_digests(), corpus_digest(corpus), kinds, field])
    path = stored("scores", key, make) / "scores.f64"
    try:
        size = path.stat().st_size
        if size != num_documents * np.dtype(np.float64).itemsize:
            raise ValueError(f"the size is {size}, of {num_documents} documents")
        return np.memmap(path, np.float64, "r")
    except (OSError, ValueError) as error:
        raise SurgeonError(
            f"cached scores cannot be read: {error}", str(path.parent), "remove this folder and run again"
        ) from error

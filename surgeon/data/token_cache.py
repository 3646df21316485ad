"""Tokens of a corpus, made once and mapped into memory from then on.

`$XDG_CACHE_HOME/surgeon/tokens` (by default under ~/.cache) holds a folder for each corpus as one tokenizer reads it:
ids.i32, learn.bool and offsets.i64, as raw arrays in the order of the bytes of this machine, digests of pieces of them
(see surgeon.data.pieces), by which a run sees where they are no longer what was written, and tokens.json. Its name
is a digest of all that decides it: the contents of the files and how they are read, the whole tokenizer with its added
tokens and its chat template, what is learned, the versions of the libraries and the code that does it. A folder is
never written to again and may be removed whenever no run reads it. Corpora of less than MIN_BYTES are tokenised in
memory: that takes a moment and leaves nothing behind.

A corpus is streamed to the disk: what is held is a batch of it. Threads of the tokenizers library encode one batch
while Python reads the next one. Measured by benchmarks/data_tokenise.py, that takes less CPU than the tokenizer's own
call, which computes offsets and copies, and than datasets.map; a pool of processes comes near it, but it needs a copy
of the tokenizer in each, and ids sent back.
"""

from __future__ import annotations

import datetime
import json
import sys
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
from blake3 import blake3
from numpy.typing import DTypeLike, NDArray

from surgeon.checkpoint.config_json import dump_json
from surgeon.checkpoint.digest import file_digests, json_digest
from surgeon.checkpoint.known_digests import Stamp, stamp
from surgeon.data.compressed import kind_of
from surgeon.data.known_files import MIN_BYTES, settled
from surgeon.data.pieces import WIDTH, Pieces, altered, piece_digests
from surgeon.data.source import Corpus, corpus_digest, files
from surgeon.data.store import stored
from surgeon.data.tokens import LossOn, Tokens, chunks, specials, tokenise
from surgeon.errors import SurgeonError
from surgeon.progress import SILENT, Progress

INDEX = "tokens.json"
_ARRAYS: dict[str, DTypeLike] = {"ids.i32": np.int32, "learn.bool": np.bool_, "offsets.i64": np.int64}
_PIECES = "pieces.blake3"
_WHOLE = ("offsets.i64", _PIECES)  # small beside the tokens: looked at as a whole, at the start
_FORMAT = 2
_CODE = ("source.py", "compressed.py", "folders.py", "parquet.py", "hub.py", "template.py", "tokens.py")


@dataclass(frozen=True)
class Read:
    """Tokens of a corpus and the digest of its contents (see corpus_digest)."""

    tokens: Tokens
    digest: str


def read_tokens(corpus: Corpus, tokenizer: Any, loss_on: LossOn = "response", progress: Progress = SILENT) -> Read:
    """The tokens of a corpus: the same as `tokenise` gives, byte for byte, from the cache where they are in it.

    Raises SurgeonError where the corpus changes while it is read, or where the cache cannot be written.
    """
    before = settled(files(corpus))
    digest = corpus_digest(corpus)
    if sum(mark[2] for mark in before) < MIN_BYTES:
        tokens = tokenise(corpus, tokenizer, loss_on)
        check_unchanged(corpus, before)
        return Read(tokens, digest)

    def make(folder: Path) -> None:
        _write(folder, corpus, tokenizer, loss_on, progress)
        check_unchanged(corpus, before)

    kinds = [kind_of(path) for path in files(corpus)]
    key = json_digest([_how(), digest, kinds, tokenizer_digest(tokenizer), loss_on])
    return Read(_mapped(stored("tokens", key, make), corpus.name), digest)


def check_unchanged(corpus: Corpus, before: list[Stamp]) -> None:
    """Refuse a corpus whose files are not those that had the stamps `before`."""
    try:
        same = [stamp(path) for path in files(corpus)] == before
    except FileNotFoundError:
        same = False
    if not same:
        raise changed(corpus)


def changed(corpus: Corpus) -> SurgeonError:
    """What to raise of a corpus that is not what it was."""
    return SurgeonError(
        "the corpus changed while it was read", str(corpus.path), "wait until nothing writes to it, and run again"
    )


def tokenizer_digest(tokenizer: Any) -> str:
    """Of everything that decides what a tokenizer does with a text: the tokenizer as it is in memory with its added
    tokens, its chat template, its special tokens. A template that asks for the date is another one every day."""
    marks = specials(tokenizer)  # also leaves the tokenizer without truncation and padding, which are written too
    template = tokenizer.chat_template
    today = str(datetime.date.today()) if "strftime_now" in str(template) else None
    special = [marks.start, marks.end, sorted(tokenizer.all_special_ids), tokenizer.special_tokens_map]
    return json_digest([type(tokenizer).__name__, tokenizer.backend_tokenizer.to_str(), template, today, special])


@cache
def _how() -> list[Any]:
    """Versions of the libraries, and the code itself: what another release made is not taken for its own."""
    import tokenizers
    import transformers

    return [_FORMAT, tokenizers.__version__, transformers.__version__, code_digests()]


@cache
def code_digests() -> list[str]:
    """Of the code that reads corpora, and the order of bytes in an array."""
    return [*file_digests(Path(__file__).with_name(name) for name in _CODE), sys.byteorder]


def _write(folder: Path, corpus: Corpus, tokenizer: Any, loss_on: LossOn, progress: Progress) -> None:
    end, highest, learned, num_bytes, instruct = 0, 0, 0, 0, False
    with (
        (folder / "ids.i32").open("wb") as ids,
        (folder / "learn.bool").open("wb") as learn,
        (folder / "offsets.i64").open("wb") as offsets,
        progress.task(f"tokenising {corpus.name}", None, "tokens") as advance,
    ):
        offsets.write(np.zeros(1, np.int64).data)
        for chunk in chunks(corpus, tokenizer, loss_on):
            ends = end + np.cumsum(chunk.lengths, dtype=np.int64)
            ids.write(chunk.ids.data)
            learn.write(chunk.learn.data)
            offsets.write(ends.data)
            end, highest = int(ends[-1]), int(chunk.ids.max(initial=highest))
            learned, num_bytes = learned + int(chunk.learn.sum()), num_bytes + chunk.num_bytes
            instruct = instruct or chunk.instruct
            advance(len(chunk.ids))
    index = {"max_id": highest, "learned": learned, "instruct": instruct, "num_bytes": num_bytes}
    sizes = {name: (folder / name).stat().st_size for name in _ARRAYS}
    held = [
        _map(folder / name, _ARRAYS[name]) for name in ("ids.i32", "learn.bool") if end
    ]  # nothing cannot be mapped
    (folder / _PIECES).write_bytes(piece_digests(*held).tobytes() if held else b"")
    whole = {"sizes": sizes, "blake3": {name: _digest(folder / name) for name in _WHOLE}}
    (folder / INDEX).write_text(dump_json(index | whole), encoding="utf-8")


def _mapped(folder: Path, name: str) -> Tokens:
    try:
        index = json.loads((folder / INDEX).read_text(encoding="utf-8"))
        sizes = {part: (folder / part).stat().st_size for part in _ARRAYS}
        if index["sizes"] != sizes:
            raise ValueError(f"the sizes are {sizes}")
        ids, learn, offsets = (_map(folder / part, dtype) for part, dtype in _ARRAYS.items())
        known = {key: index[key] for key in ("instruct", "num_bytes", "max_id", "learned")}
        different = [part for part in _WHOLE if index["blake3"][part] != _digest(folder / part)]
        wanted = _map(folder / _PIECES, np.uint8).reshape(-1, WIDTH)
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise SurgeonError(
            f"cached tokens cannot be read: {error}", str(folder), "remove this folder and run again"
        ) from error
    if different:
        raise altered(str(folder), different[0])
    return Tokens(name, ids, learn, offsets, **known, pieces=Pieces(ids, learn, wanted, str(folder)))


def _digest(path: Path) -> str:
    return blake3(max_threads=blake3.AUTO).update_mmap(path).hexdigest()


def _map(path: Path, dtype: DTypeLike) -> NDArray[Any]:
    return np.memmap(path, dtype, "r")

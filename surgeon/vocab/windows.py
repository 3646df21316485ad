"""The target text cut for training: rows of a fixed length from the stream, and short windows around new tokens.

Shape suffixes: R rows, S tokens of a row.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from pathlib import Path

import numpy as np

from surgeon.errors import SurgeonError
from surgeon.vocab.tokens import NewTokens


def start_ids(folder: Path) -> list[int]:
    """What stands before a text that `evaluate` reads: what the tokenizer puts there, else its end token."""
    from surgeon.data.tokens import specials
    from surgeon.loading import load_tokenizer

    marks = specials(load_tokenizer(folder))
    return list(marks.start) or ([] if marks.end is None else [marks.end])


def packed_rows(new: NewTokens, start: list[int], seq_len: int, max_tokens: int, init: str) -> np.ndarray:
    """int64 [R, S]: the documents one after the other, each after the start, cut every `seq_len` tokens; only rows
    that hold a new token. At most `max_tokens` are read; what is left over after the last cut is not used.

    Raises SurgeonError where no row holds a new token.
    """
    stream: list[int] = []
    for document in new.text(init):
        stream += [*start, *document]
        if len(stream) >= max_tokens:
            break
    count = min(len(stream), max_tokens) // seq_len
    rows_RS = np.asarray(stream[: count * seq_len], dtype=np.int64).reshape(count, seq_len)
    found: np.ndarray = rows_RS[np.isin(rows_RS, new.ids).any(1)]
    if not len(found):
        raise SurgeonError(
            f"no {seq_len} tokens of the target text hold a new token",
            f"{len(stream):,} tokens read",
            "give more text that uses them",
        )
    return found


def snippets(new: NewTokens, length: int, per_token: int, max_tokens: int, init: str) -> Iterator[list[int]]:
    """Windows of at most `length` tokens that do not overlap, in the order of the text, each with a new token that
    fewer than `per_token` windows held before; the first new token stands at most half a window in."""
    wanted = dict.fromkeys(new.ids, per_token)
    read = 0
    for document in new.text(init):
        at = 0
        for place, token in enumerate(document):
            if place < at or not wanted.get(token):
                continue
            begin = max(at, place - length // 2)
            window = document[begin : begin + length]
            at = begin + len(window)
            for held in set(window) & wanted.keys():
                wanted[held] = max(0, wanted[held] - 1)
            yield window
        read += len(document)
        if read >= max_tokens or not any(wanted.values()):
            return


def drawn(windows: Iterable[list[int]], limit: int | None, rng: np.random.Generator) -> list[list[int]]:
    """All windows, or `limit` of more than that, each set of so many as likely, with no more than `limit` in memory.

    Source: Vitter 1985, Random Sampling with a Reservoir, algorithm R.
    """
    kept: list[list[int]] = []
    for count, window in enumerate(windows):
        if limit is None or count < limit:
            kept.append(window)
        elif (place := int(rng.integers(count + 1))) < limit:
            kept[place] = window
    return kept

"""New tokens: the tokenizer's own BPE merges continued on a corpus.

Words of old pieces (surgeon.vocab.words) are merged on from where the old merges stop, the most frequent pair first
(surgeon.vocab.merging). A pair that may not become a token is never merged, so counts go on without it and nothing is
built on it. A merge never crosses a word, an added token or a byte-fallback piece.

A token learned so is reached by encoding its own text: a stretch between two final piece boundaries of a word encodes
to the same pieces when it stands alone. This is checked, as is that the text to keep encodes as before.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import numpy as np

from surgeon.errors import UsageError
from surgeon.progress import SILENT, Progress
from surgeon.vocab.gain import STRIDE, curve, stop_at
from surgeon.vocab.keep import Kept, kept
from surgeon.vocab.merging import Merging
from surgeon.vocab.script import AUTO, Script, main_script, script_named
from surgeon.vocab.token_text import token_bytes, token_text
from surgeon.vocab.tokenizer_json import Merge, TokenizerFile, all_splits, unreachable
from surgeon.vocab.too_few import too_few, too_little_gain
from surgeon.vocab.words import WordTable, word_table

_ADVANCE = 256


@dataclass(frozen=True)
class Learned:
    """New tokens in the order of their ids, and the merges to append.

    num_characters: how many of the tokens are single characters that byte fallback wrote before.
    tokens_before: old tokens of the corpus it was learned on (None for given tokens). helpers: of given tokens, those
    that no line named but that a chain of merges must pass through. curve: (tokens added, tokens of the corpus with
    these), from (0, tokens_before) to all of them. script: that the tokens were held to. banned: merges and characters
    that would have been learned next, had they not changed the text to keep (None: no such text). stopped: whether
    too small a gain ended it before the number asked for. left_out: tokens of another model that the merges here take
    apart (surgeon.vocab.tokens_of).
    """

    tokens: tuple[str, ...]
    merges: tuple[Merge, ...]
    num_characters: int = 0
    tokens_before: int | None = None
    helpers: tuple[str, ...] = ()
    curve: tuple[tuple[int, int], ...] = ()
    script: str | None = None
    banned: int | None = None
    stopped: bool = False
    left_out: tuple[str, ...] = ()

    @property
    def tokens_after(self) -> int | None:
        """Tokens of the corpus with all new ones."""
        return self.curve[-1][1] if self.curve else None

    def to_json(self) -> dict[str, Any]:
        """What the lineage remembers of the learning."""
        return {
            "characters": self.num_characters,
            "tokens_before": self.tokens_before,
            "tokens_after": self.tokens_after,
            "curve": [list(point) for point in self.curve],
            "script": self.script,
            "banned": self.banned,
            "stopped": self.stopped,
        } | ({"left_out": list(self.left_out)} if self.left_out else {})


def learn(
    file: TokenizerFile,
    documents: Iterable[str],
    add: int,
    *,
    min_count: int = 2,
    max_length: int | None = None,
    script: str | None = None,
    keep: Iterable[str] | None = None,
    stop_gain: float | None = None,
    progress: Progress = SILENT,
) -> Learned:
    """Exactly `add` new tokens from `documents`, read once; fewer only where `stop_gain` says so.

    min_count: a merge must join at least so many pairs, a character occur so often. max_length: characters of a
    token's text, the space included. script: name of the script (or of several) that every token is of, or "auto"
    (surgeon.vocab.script). keep: texts that are encoded exactly as before, read twice. stop_gain: stop where the next
    1,000 tokens save less than this per cent of the corpus's old tokens. Raises SurgeonError where the corpus supports
    fewer than `add` tokens, saying how many. The result depends on the texts alone, not on their order, threads or
    hash seeds; the first tokens of a greater `add` are those of a smaller one. Memory grows with the distinct words of
    the corpus, not with its length.
    """
    held = None if script in (None, AUTO) else script_named(str(script))
    if file.kind != "BPE":
        from surgeon.vocab.learn_pieces import learn_pieces

        return learn_pieces(
            file,
            documents,
            add,
            min_count=min_count,
            max_length=max_length,
            script=script,
            keep=keep,
            stop_gain=stop_gain,
            progress=progress,
        )
    if add < 1:
        raise UsageError(f"{add} new tokens are none", "--add", "ask for at least one")
    old = None if keep is None else kept(file, keep, progress)
    table = word_table(file, documents, progress, points=script == AUTO)
    if script == AUTO:
        held = main_script(table.points)
        progress.say(f"most of the text is {held.name}: new tokens are of this script")
    refused: set[str] = set()
    while True:
        run = _Run(file, table, min_count, max_length, held, old, refused)
        run.learn(add if stop_gain is None else add + STRIDE, progress)
        num = min(add, len(run.tokens))
        if stop_gain is not None:
            num = stop_at(run.sizes, num, stop_gain)
        learned = run.result(num, stopped=stop_gain is not None and num < add, tried_all=num == len(run.tokens) < add)
        size = f"{table.num_documents:,} documents, {table.num_tokens:,} tokens"
        if stop_gain is not None and not num and run.tokens:
            raise too_little_gain(stop_gain, size)
        if not num or (num < add and not learned.stopped):
            bans = run.bans(learned) if learned.banned else ""
            raise too_few(num, add, size, min_count, learned.script, bans)
        extended = file.extended(learned.tokens, learned.merges)
        lost = unreachable(extended, learned.tokens)
        if not lost:
            break
        refused.update(lost)  # a tokenizer that merges otherwise than its kind does
    if old is not None:
        old.check(extended, progress)
        progress.say(run.bans(learned))
    if learned.stopped:
        progress.say(f"stopped at {num:,} tokens: the next 1,000 save less than {stop_gain:g} per cent of the text's")
    return learned


class _Run:
    """One pass of learning. tokens: in order. sizes: tokens of the corpus with 0, 1, 2, ... of them."""

    def __init__(
        self,
        file: TokenizerFile,
        table: WordTable,
        min_count: int,
        max_length: int | None,
        script: Script | None,
        old: Kept | None,
        refused: set[str],
    ) -> None:
        self.file, self.max_length, self.script, self.kept, self.refused = file, max_length, script, old, refused
        self.table, self.first_character = table, table.first_character
        closed = {*file.added_ids, *file.byte_ids}
        texts = ["" if i in closed else file.ids.get(i, "") for i in range(table.first_character)]
        texts += table.characters
        gains = {
            table.first_character + k: (len(c.encode("utf-8")) - 1) * count if count >= min_count else 0
            for k, (c, count) in enumerate(zip(table.characters, table.occurrences, strict=True))
        }
        codes, lengths, counts = table.codes, table.lengths, table.counts
        if script is not None:
            fits = np.fromiter((bool(t) and script.may_hold(token_bytes(file, t)) for t in texts), dtype=bool)
            codes, lengths, counts = table.stretches(fits)
        self.merging = Merging(
            codes,
            lengths,
            counts,
            texts,
            waiting=gains,
            min_count=min_count,
        )
        self.tokens: list[str] = []
        self.sizes = [table.num_tokens]
        self._banned: list[tuple[str, int]] = []  # text, and what it would have saved
        self._merges: list[Merge] = []
        self._ends: list[tuple[int, int, int]] = [(0, 0, 0)]  # merges, characters, bans of the first 0, 1, ... tokens
        self._characters = 0

    def learn(self, num: int, progress: Progress) -> None:
        """Up to `num` tokens; fewer where the corpus holds no more."""
        merging, size = self.merging, self.table.num_tokens
        with progress.task("learning merges", num, "tokens") as advance:
            while len(self.tokens) < num and (best := merging.best()) is not None:
                left, right = best
                text = merging.texts[right] if left is None else merging.texts[left] + merging.texts[right]
                if self._refuses(left, right, text):
                    merging.refuse()
                    continue
                if left is None:
                    size -= merging.choose()
                    self._characters += 1
                else:
                    size -= merging.merge(left, right)
                    self._merges.append((merging.texts[left], merging.texts[right]))
                self.tokens.append(text)
                self.sizes.append(size)
                self._ends.append((len(self._merges), self._characters, len(self._banned)))
                if len(self.tokens) % _ADVANCE == 0:
                    advance(_ADVANCE)
            advance(len(self.tokens) % _ADVANCE)

    def _refuses(self, left: int | None, right: int, text: str) -> bool:
        if text in self.file.vocab or text in self.refused:  # what the old tokenizer leaves apart, or an added token
            return True
        if self.max_length is not None and len(token_text(self.file, text)) > self.max_length:
            return True
        if self.script is not None and not self.script.owns(token_bytes(self.file, text)):
            return True
        if self.kept is not None and self._changes_old_text(left, right, text):
            self._banned.append((text, self.merging.saving))
            return True
        return False

    def _changes_old_text(self, left: int | None, right: int, text: str) -> bool:
        assert self.kept is not None
        if left is None:
            return text in self.kept.characters
        if not self.file.by_pieces:
            return (left, right) in self.kept
        ids = self.file.vocab  # any two pieces that spell the new one merge
        return any((ids.get(text[:i], -1), ids.get(text[i:], -1)) in self.kept for i in range(1, len(text)))

    def bans(self, learned: Learned) -> str:
        """What could not be learned for the sake of the text to keep, for people; empty where there is none."""
        if learned.banned is None:
            return ""
        if not learned.banned:
            return "nothing had to be passed over for the text to keep"
        costliest = sorted(self._banned[: learned.banned], key=lambda ban: -ban[1])[:3]
        named = ", ".join(f"{token_text(self.file, text)!r} ({num:,} tokens)" for text, num in costliest)
        return f"passed over {learned.banned:,} merges that would change the text to keep, most of all {named}"

    def result(self, num: int, *, stopped: bool, tried_all: bool = False) -> Learned:
        """The first `num` tokens. tried_all: the corpus holds no more; then what was passed over since counts too."""
        tokens = self.tokens[:num]
        merges, characters, banned = self._ends[num]
        banned = len(self._banned) if tried_all else banned
        found = self._merges[:merges]
        if self.file.by_pieces:
            found = all_splits(tokens, self.file)
        return Learned(
            tuple(tokens),
            tuple(found),
            characters,
            self.table.num_tokens,
            curve=curve(self.sizes[: num + 1]),
            script=None if self.script is None else self.script.name,
            banned=None if self.kept is None else banned,
            stopped=stopped,
        )
